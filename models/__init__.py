"""What is computed on one photo: the defender, frozen diffusion models, codecs, the protector."""
