"""The model: its folder, its tokenizer, its packaged examples.

Checked on the driver without torch, loaded once by each worker.
The forward pass is in `engines/`.
"""
