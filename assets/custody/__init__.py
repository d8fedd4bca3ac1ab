"""What was published is proven, and removed where it is asked for."""
