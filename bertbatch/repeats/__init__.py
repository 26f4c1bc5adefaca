"""Texts that occur in several units: found before the work, scored once, answered everywhere.

What is in here only saves work: a unit whose stored answers are missing scores its texts itself.
Texts that occur twice in one unit are not here: engines score those once.
"""
