"""The model in service: its file, where it comes from, when it is swapped."""
