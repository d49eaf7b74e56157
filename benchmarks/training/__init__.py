"""Training speed against the chapter's own code."""
