"""Engines, which run the forward pass: token ids in, logits out.

`engine.py` says what an engine is. Batching, calibration and the checks of answers are here, too.
`tasks/` turns logits into output columns.
"""
