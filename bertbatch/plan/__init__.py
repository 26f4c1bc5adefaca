"""The plan: which rows make a unit, stored with the output.

Decided once for each source; changed only by `revisions.py`.
Reading the rows is done in `inputs/`.
"""
