"""The drawing page: from pen up to the answer."""
