"""What the service measures about itself."""
