"""Input files: they are found, cut and read here.

A file format is one file in `formats/`. Tokens, models and outputs are dealt with elsewhere.
"""
