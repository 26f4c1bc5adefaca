import os
import sys
from pathlib import Path

# `-m` puts the working folder first, where a file `torch.py` would be taken for the package; in a
# checkout that is not installed it is where we are.
if sys.path[0] == os.getcwd() and Path(__file__).parent.parent != Path.cwd():
    del sys.path[0]

from bertbatch.cli import app

app(prog_name="bertbatch")  # which completion is then for, instead of `python`
