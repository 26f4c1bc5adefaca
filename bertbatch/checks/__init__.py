"""Checks of an output against its files.

They read; of what a run does they do nothing.
`verify.py` may delete what a crash left behind.
"""
