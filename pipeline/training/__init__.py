"""Training: one run as a value, the loop and its parts."""
