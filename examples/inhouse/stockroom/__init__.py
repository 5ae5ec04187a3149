"""A stockroom that has a connection pool of its own making."""
