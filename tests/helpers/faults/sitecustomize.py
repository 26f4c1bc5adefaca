"""Faults for the tests, put into every Python process by PYTHONPATH; the program knows nothing.

FAULT_POISON   token ids (JSON list): a worker that scores a row with exactly these dies
FAULT_DEATH    how: by itself, by a signal of this number, or of its GPU ("gpu"): CUDA's error
               for this call and all that follow in the process
FAULT_RAISE    the number of the call of scoring that raises, in each process,
FAULT_RAISED   which writes a line to this file
FAULT_MEMORY   a batch of more tokens than this is too much for the device's memory
FAULT_SLEEP    seconds that scoring one range of rows takes longer
FAULT_LOADS    a file that gets a line for each engine that is loaded
FAULT_SCORES   a file that gets a line for each range of rows that is scored
FAULT_PRINT    what is printed on standard output for each engine that is loaded
FAULT_STORE    a fault of the storage (JSON): `op` (create, replace, delete, read), a part of the
               `path`, and what happens, `times` times over all processes (a file `once` counts):
               "die before" or "die after" it, "lost" (done, but an error is told), "fail"
"""

import fcntl
import itertools
import json
import os
import time


def _line(path: str) -> None:
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\n")


def install() -> None:
    """Puts the faults that the environment names in place."""
    import bertbatch.engines.engine
    import bertbatch.engines.scoring

    _score = bertbatch.engines.scoring.score
    _load = bertbatch.engines.engine.load_engine
    _calls = itertools.count(1)
    _poison = json.loads(os.environ.get("FAULT_POISON", "null"))
    _death = os.environ.get("FAULT_DEATH", "0")
    _lost = []

    def _lose():
        import torch

        from bertbatch.engines.devices import device_errors

        with device_errors():
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    def score(engine, tokens, first, stop, *rest):
        for row in range(first, stop):
            if tokens.ids[tokens.offsets[row] : tokens.offsets[row + 1]].tolist() == _poison:
                if _death == "gpu":
                    _lost.append(row)
                    break
                os.kill(os.getpid(), int(_death))
                os._exit(1)
        if _lost:
            _lose()
        if next(_calls) == int(os.environ.get("FAULT_RAISE", "0")):
            _line(os.environ["FAULT_RAISED"])
            raise RuntimeError("the engine is out of order")
        if path := os.environ.get("FAULT_SCORES"):
            _line(path)
        time.sleep(float(os.environ.get("FAULT_SLEEP", "0")))
        return _score(engine, tokens, first, stop, *rest)

    if fault := json.loads(os.environ.get("FAULT_STORE", "null")):
        from bertbatch.storage.stores import Store

        _op = getattr(Store, fault["op"])

        def _strikes(path):
            if fault["path"] not in path:
                return False
            with open(fault["once"], "a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                if len(file.readlines()) >= fault.get("times", 1):
                    return False
                file.write(f"{os.getpid()}\n")
                return True

        def op(self, path, *args):
            strikes = _strikes(path)
            what = fault["what"] if strikes else ""
            if what == "die before":
                os._exit(9)
            if what == "fail":
                raise OSError(5, "the storage failed", path)
            result = _op(self, path, *args)
            if what == "die after":
                os._exit(9)
            if what == "lost":
                raise OSError(104, "the reply was lost", path)
            return result

        setattr(Store, fault["op"], op)

    def load_engine(*args):
        if path := os.environ.get("FAULT_LOADS"):
            _line(path)
        if said := os.environ.get("FAULT_PRINT"):
            print(said, flush=True)
        engine = _load(*args)
        if limit := int(os.environ.get("FAULT_MEMORY", "0")):
            import torch

            def packed(batch, _packed=engine._packed):
                if len(batch.ids) > limit:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return _packed(batch)

            settle = engine.settle

            def then_limited(*args):  # the load itself tries batches that are larger
                settle(*args)
                engine._packed = packed

            engine.settle = then_limited
        return engine

    bertbatch.engines.scoring.score = score
    bertbatch.engines.engine.load_engine = load_engine


if any(name.startswith("FAULT_") for name in os.environ):
    install()
