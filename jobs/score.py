"""Runs a job file and exits with its code: the entrypoint for a cluster.

ray job submit --address http://HEAD:8265 --working-dir . -- python jobs/score.py jobs/reviews.yaml
"""

import sys

from bertbatch import Job, JobError, RunError, run
from bertbatch.terminal import make_watcher


def main(path: str, *changes: str) -> int:
    try:
        return run(Job.load(path, list(changes)), make_watcher("plain")).exit_code
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
