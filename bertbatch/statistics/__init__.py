"""Formulas: what each attention statistic says of a head's weights.

`statistic.py` says what a statistic is; each other file is one formula with its source.
They are computed in `engines/attention_stats.py`, after which `attention/` takes over.
"""
