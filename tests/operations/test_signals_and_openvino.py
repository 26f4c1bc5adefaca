"""OpenVINO gives the main thread a stack for signals: it must last as long as the process."""

import subprocess
import sys

from tests.helpers.onnx_folders import to_onnx
from tests.helpers.tiny import make_model

# Scores three times with engines that end one after another, then takes a signal.
CODE = """
import ctypes, gc, signal, sys
from bertbatch import Job, run

class Stack(ctypes.Structure):
    _fields_ = [("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def stack():
    now = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(now)) == 0
    return now.sp

seen = []
for i in range(3):
    model = {"name": sys.argv[1], "engine": "openvino", "dtype": "float32"}
    job = Job.build({
        "input": {"path": sys.argv[2]}, "output": {"path": f"{sys.argv[3]}/{i}"}, "model": model,
        "runtime": {"runner": "inline"},
    })
    assert run(job).exit_code == 0
    gc.collect()
    seen.append(stack())
signal.signal(signal.SIGALRM, lambda *_: print("handled"))
signal.raise_signal(signal.SIGALRM)
print("kept" if len(set(seen)) == 1 else f"changed: {seen}")
"""


def test_a_signal_after_several_engines_is_handled(tmp_path) -> None:
    model = make_model(tmp_path / "model")
    to_onnx(tmp_path / "model")  # whose worker compiles it twice
    (tmp_path / "in.csv").write_text("text\ngood film\nbad\n")
    command = [sys.executable, "-c", CODE, model, str(tmp_path / "in.csv"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["handled", "kept"]
