"""The best keys by true attention mass: what selection could reach at most."""
