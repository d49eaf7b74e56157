"""Speed of our service compared with other servers of the same model, and the cost of one request."""
