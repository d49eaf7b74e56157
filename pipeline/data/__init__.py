"""The data set: found, checked by SHA-256, split."""
