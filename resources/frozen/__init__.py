"""Frozen models that a run names: diffusion models and latent spaces, by name, folder or hub id."""
