"""Faults for the tests, put into every Python process by PYTHONPATH; the program knows nothing.

FAULT_POISON   token ids (JSON list): a worker that scores a row with exactly these dies
FAULT_SLEEP    seconds that scoring one range of rows takes longer
FAULT_LOADS    a file that gets a line for each engine that is loaded
"""

import json
import os
import time

if any(name.startswith("FAULT_") for name in os.environ):
    import bertbatch.engines
    import bertbatch.scoring

    _score = bertbatch.scoring.score
    _load = bertbatch.engines.load_engine
    _poison = json.loads(os.environ.get("FAULT_POISON", "null"))

    def score(engine, tokens, first, stop, *rest):
        for row in range(first, stop):
            if tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist() == _poison:
                os._exit(1)
        time.sleep(float(os.environ.get("FAULT_SLEEP", "0")))
        return _score(engine, tokens, first, stop, *rest)

    def load_engine(*args):
        if path := os.environ.get("FAULT_LOADS"):
            with open(path, "a") as file:
                file.write(f"{os.getpid()}\n")
        return _load(*args)

    bertbatch.scoring.score = score
    bertbatch.engines.load_engine = load_engine
