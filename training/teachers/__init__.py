"""Optimisation-based perturbations, precomputed for a share of the photos: what the defender regresses to."""
