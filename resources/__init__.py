"""Places of things: storage, sources, tables, defenders, diffusion models, workers."""
