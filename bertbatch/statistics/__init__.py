"""The formulas of attention statistics.

`statistic.py` says what a statistic is; each other file is one formula with its source. The
engine computes them (`engines/attention_stats.py`), `attention/` aggregates them.
"""
