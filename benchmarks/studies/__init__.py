"""Single questions about training speed, one script each."""
