"""Readers, one for each file format.

`reader.py` says what a reader is. Readers deal with files and columns, not with units or tokens.
"""
