"""How findings are told: text for a terminal, JSON for programs."""
