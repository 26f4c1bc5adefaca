"""Copies of an output for other programs, in files or tables.

What is copied, and that each row is copied once. Parts are only read here. Scoring is not.
"""
