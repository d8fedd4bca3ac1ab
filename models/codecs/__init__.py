"""One file a format: reading a photo and writing it back like the original."""
