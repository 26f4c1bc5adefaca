"""Runs a job file as `bertbatch run` does and exits with its code: the entrypoint for clusters.

ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/score.py jobs/reviews.yaml
"""

import sys

from bertbatch.cli import app

app(["run", "--log", "plain", *sys.argv[1:]])
