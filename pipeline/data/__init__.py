"""Data sets: files are found, checked by SHA-256, read and split."""
