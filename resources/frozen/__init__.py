"""Which frozen models a run names: diffusion models and latent spaces, by name, folder or hub id."""
