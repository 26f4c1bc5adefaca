"""One reader for each file format, with what it needs.

`reader.py` says what a reader is.
Readers know files and columns, not units or tokens.
"""
