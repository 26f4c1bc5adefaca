"""The forward pass: token ids in, logits out.

`engine.py` says what an engine is; batches, calibration and checks of answers are here, too.
What the logits mean is said in `tasks/`.
"""
