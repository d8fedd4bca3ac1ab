"""The study of what an attacker learns, over Dask workers."""
