"""How much pools are used, and what that advises on their size."""
