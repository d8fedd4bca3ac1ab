"""Where things are: storage, sources, tables, defenders, diffusion models, workers."""
