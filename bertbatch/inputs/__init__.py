"""Input files: finding them, cutting them, reading their rows.

A file format is one file in `formats/`.
Nothing here knows tokens, models or outputs.
"""
