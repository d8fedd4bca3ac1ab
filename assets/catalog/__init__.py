"""What came in: catalogs of photos, where they lie, and how they are read."""
