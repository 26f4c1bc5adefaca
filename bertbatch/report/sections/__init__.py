"""The sections of a report, one a file.

Each makes its part of the page from what was gathered, or says that there is none.
"""
