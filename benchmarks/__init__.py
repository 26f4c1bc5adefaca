"""Measurements: bertbatch against what else one would use, and its cost against size."""
