"""Measurements of protection, with paired intervals."""
