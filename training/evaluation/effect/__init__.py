"""What a perturbation does to a model, beside controls of equal norm."""
