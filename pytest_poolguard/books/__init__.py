"""What is remembered: who holds which connection, since when, and where it was taken."""
