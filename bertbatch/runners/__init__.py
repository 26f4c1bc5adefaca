"""Runners: where the pipeline's stages run. The loop itself is in `pipeline.py`."""
