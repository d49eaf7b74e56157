"""Long load and overload of the service: memory, errors and response times."""
