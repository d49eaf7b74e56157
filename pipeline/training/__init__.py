"""Training: one run as a value, the loop, and what the loop is made of."""
