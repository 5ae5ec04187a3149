"""What the servers say: who is connected, and what they hold."""
