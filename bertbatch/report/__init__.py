"""A report on an output: one HTML file, made of committed files alone.

`page.py` writes it; each section is a file; `blocks.py` has what sections are made of.
"""
