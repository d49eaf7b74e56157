"""Training speed: the chapter's own code compared with our recipes."""
