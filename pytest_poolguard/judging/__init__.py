"""Whether a connection that is still out is a leak."""
