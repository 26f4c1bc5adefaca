"""Tasks: from an engine's answers to output columns.

`task.py` says what a task is; each other file is one.
Nothing else knows what logits mean.
"""
