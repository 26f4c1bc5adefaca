"""The job file: its keys, their checks, the messages about wrong ones.

Everything that a user may set stands in `schema.py`.
Nothing here opens an input, a model or an output.
"""
