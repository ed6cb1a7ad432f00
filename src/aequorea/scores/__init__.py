"""Metrics: pure functions of two arrays and a spacing; pooled over blocks and images by adding counts."""
