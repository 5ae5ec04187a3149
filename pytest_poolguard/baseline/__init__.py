"""What is known or ignored, and so lets a run pass."""
