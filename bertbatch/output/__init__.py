"""The output folder: its contract, its parts, who may write.

The commit protocol is in `commit.py`.
Which rows make a unit is decided in `plan/`.
"""
