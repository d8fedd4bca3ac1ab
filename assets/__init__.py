"""Where places and computations meet: the assets, and the functions that run on workers."""
