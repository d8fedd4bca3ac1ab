"""From a request to a commit."""
