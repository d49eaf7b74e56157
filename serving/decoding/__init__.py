"""Bodies and pictures to uint8 images."""
