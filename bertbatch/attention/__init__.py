"""Attention statistics, of each row or of a whole corpus.

They are sampled, written as columns, aggregated, merged and compared here. The formulas are in
`statistics/`, the forward pass that computes them is in `engines/attention_stats.py`.
"""
