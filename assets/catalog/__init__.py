"""Catalogs of the photos that came in: how they are listed, indexed, planned and read."""
