"""Starts the executor that a job asks for, or that `runtime.runner: auto` chooses."""

import logging
from typing import TYPE_CHECKING

from bertbatch.job.schema import Job
from bertbatch.runtime.executors.choice import RAY_SECONDS, in_memory, ray_reason, scoring_seconds
from bertbatch.runtime.executors.executor import Executor, WorkerDied
from bertbatch.runtime.phases import phase
from bertbatch.wording import counted

if TYPE_CHECKING:
    from bertbatch.runtime.executors.child import Child
    from bertbatch.runtime.preflight import Preflight

log = logging.getLogger("bertbatch")

IMPORTING = "importing PyTorch"  # which takes longer than loading a small model


class Starting:
    """A run's executor before there is one: what is likely to be needed has begun to start.

    On leaving, what was not needed ends.
    """

    def __init__(self, job: Job, verbose: bool):
        self._job, self._verbose = job, verbose
        self._runner: str = job.runtime.runner
        self._child: Child | None = None
        self._why = ""

    def __enter__(self) -> "Starting":
        if self._runner != "auto":
            return self
        if in_memory(self._job):
            self._runner, self._why = "inline", "memory:// exists in this process only"
        elif why := ray_reason(self._job):
            self._runner, self._why = "ray", why
        else:
            from bertbatch.runtime.executors.child import Child

            try:
                self._child = Child()
            except OSError as error:
                self._runner, self._why = "ray", f"no process can be started ({error})"
        return self

    def __exit__(self, *_: object) -> None:
        if self._child:
            self._child.close()

    def executor(self, preflight: "Preflight") -> Executor:
        """With the model loaded. Raises JobError if it cannot be had."""
        if self._child and (executor := self._in_child(preflight)):
            return executor
        if self._why:
            where = "inline, in this process" if self._runner == "inline" else "Ray"
            log.info("runner: %s, because %s", where, self._why)
        if self._runner == "inline":
            phase(IMPORTING)
            from bertbatch.runtime.executors.inline import InlineExecutor

            return InlineExecutor(preflight.context())
        from bertbatch.runtime.executors.ray import RayExecutor

        return RayExecutor(preflight.context(), self._verbose)

    def _in_child(self, preflight: "Preflight") -> Executor | None:
        """None if Ray is better, for `_why`."""
        from bertbatch.runtime.executors.auto import ChildThenRay

        assert self._child
        seconds = scoring_seconds(preflight)
        about = counted(max(round(seconds), 1), "second")
        if seconds > RAY_SECONDS:
            self._why = f"scoring would take up to about {about} in one process"
            self._child.close()
            return None
        log.info("runner: inline, in a child process, because scoring takes up to about %s", about)
        phase(IMPORTING)
        try:
            return ChildThenRay(self._child, preflight.context(), self._verbose)
        except WorkerDied as death:
            self._why = f"the child process died while it loaded the model ({death})"
            log.warning("%s", self._why)
            return None
