"""Frozen models that teach and measure, from where they lie into a worker's memory."""
