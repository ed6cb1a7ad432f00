"""What is learnt without labels, one file an objective."""
