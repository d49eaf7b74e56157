"""Response time of the drawing page."""
