"""A run: checked, planned, scheduled, reported.

`run.py` is where a run starts, `scheduler.py` is its only loop.
Where the work is done is in `executors/`.
"""
