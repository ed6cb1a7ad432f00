"""How a trained body is bent to new data, one file an adapter."""
