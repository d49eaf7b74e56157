"""Single questions about training speed, each with its script."""
