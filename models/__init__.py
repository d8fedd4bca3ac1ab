"""Computation on one photo: the defender, frozen diffusion models, photo files, the protector."""

import os

# ONNX Runtime 1.32 sends usage to its maker, through a database in the user's home, unless this is set before it loads.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
