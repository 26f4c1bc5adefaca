"""The output must not lie in the input: the next run would read its own predictions."""

import os
import re

from fsspec.utils import glob_translate

from bertbatch.errors import JobError
from bertbatch.job.schema import Job
from bertbatch.storage import stores


def check_outside(job: Job, store: stores.Store, path: str) -> None:
    """Raises JobError if the output would be read as input by the next run."""
    out, out_path = stores.connect(job.output.path, job.output.storage_options)
    if out.protocol != store.protocol:
        return
    if store.is_local:
        out_path = os.path.realpath(out_path)
        path = path if stores.is_glob(path) else os.path.realpath(path)
    if stores.is_glob(path):
        inside = re.match(glob_translate(path), f"{out_path}/part.parquet") is not None
    else:
        inside = f"{out_path}/".startswith(f"{path.rstrip('/')}/")
    if inside:
        raise JobError(
            f"output.path {job.output.path} lies inside input.path {job.input.path}: the next run "
            "would read its own predictions; choose a folder outside"
        )
