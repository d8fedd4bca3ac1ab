"""Photo files: what they are, how they are read and written, and what is kept of them."""
