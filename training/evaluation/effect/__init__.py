"""The effect of a perturbation on a model, beside controls of equal norm."""
