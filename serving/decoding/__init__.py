"""Request bodies and picture files to uint8 images."""
