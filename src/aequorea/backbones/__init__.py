"""The body of a network, one file a backbone."""
