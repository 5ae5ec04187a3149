"""Pools that have nothing more to hand out, and who has their connections."""
