"""Proofs of what was published, and its removal on request."""
