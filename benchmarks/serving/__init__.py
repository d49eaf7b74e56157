"""The service against other servers of the same model."""
