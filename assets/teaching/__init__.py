"""Teacher perturbations and trainings of defenders, over Dask workers."""
