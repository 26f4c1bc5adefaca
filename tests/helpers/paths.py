"""Where the project lies."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
# PYTHONPATH of processes that are to have faults.
WITH_FAULTS = f"{Path(__file__).parent / 'faults'}:{ROOT}"
