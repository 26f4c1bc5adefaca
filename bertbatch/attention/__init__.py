"""Attention statistics of rows and corpora.

They are sampled, written as columns, aggregated, merged and compared here. The formulas are in
`statistics/`, the forward pass that computes them is in `engines/attention_stats.py`.
"""
