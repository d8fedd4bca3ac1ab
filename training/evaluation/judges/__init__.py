"""Judges of pictures: face networks, quality, distances."""
