"""How a fault strikes in each library, and how what was struck is kept out of its pool."""
