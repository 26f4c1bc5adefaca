"""Input files: found, cut, read.

A file format is one file in `formats/`. Tokens, models and outputs are dealt with elsewhere.
"""
