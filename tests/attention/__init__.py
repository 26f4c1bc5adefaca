"""Attention statistics are what their definitions say, for each row and for the corpus.

The engine's statistics, the aggregates, and both through whole jobs and the commands.
"""
