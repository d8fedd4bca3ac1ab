"""Assets, and the functions that run on workers: here resources and computations meet."""
