"""A small web-shop on PostgreSQL."""
