"""Model workers on Ray while they load: each loads its model, then settles.

The first of a kind of processor finds out how rows are batched there; the others of its kind
wait for that and are told, so that all give the same answers.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ray

ASK_SECONDS = 0.1  # between questions to Ray which workers are done
Kinds = tuple[str, ...]  # of one worker, one for each model
Get = Callable[[Any], Any]  # a reference's value, or what its work raised


@dataclass
class Loading:
    """`kinds` is what is known of each kind; it is read each time."""

    probes: Any  # a reference
    kinds: dict[str, dict[str, Any]]
    nodes: dict[int, str] = field(default_factory=dict)  # of workers that have loaded
    _loading: dict[int, tuple[Any, Any]] = field(default_factory=dict)  # actor, reference
    _waiting: dict[int, tuple[Any, Kinds]] = field(default_factory=dict)  # actor, kinds
    _settling: dict[int, tuple[Any, Kinds]] = field(default_factory=dict)  # reference, kinds
    _finished: set[Any] = field(default_factory=set)  # references, when last asked
    _ask_again: float = 0.0

    def add(self, worker: int, actor: Any) -> None:
        """A fresh worker, or one in the place of another."""
        self._waiting.pop(worker, None)
        self._settling.pop(worker, None)
        self._loading[worker] = actor, actor.loaded.remote()

    def pending(self, worker: int) -> bool:
        return worker in self._loading or worker in self._waiting or worker in self._settling

    def wait(self, timeout: float) -> int | None:
        """A worker with something to tell, after the timeout (seconds) None."""
        self._let_settle()
        under_way = {ref: worker for worker, (_, ref) in self._loading.items()}
        under_way |= {ref: worker for worker, (ref, _) in self._settling.items()}
        done, _ = ray.wait(list(under_way), num_returns=1, timeout=timeout)
        self._finished.update(done)
        return under_way[done[0]] if done else None

    def look(self, worker: int, get: Get) -> list[dict[str, Any]] | None:
        """What a worker has chosen, once it is ready. Raises what its start raised."""
        if worker in self._loading:
            actor, ref = self._loading[worker]
            if not self._done(ref):
                return None
            self.nodes[worker], kinds = get(ref)
            del self._loading[worker]
            self._waiting[worker] = actor, kinds
        self._let_settle()
        if worker not in self._settling or not self._done(self._settling[worker][0]):
            return None
        ref, _ = self._settling.pop(worker)
        chosen: list[dict[str, Any]] = get(ref)
        return chosen

    def _let_settle(self) -> None:
        """Settles all that can be: those of known kinds, or the first of new ones."""
        for worker, (actor, kinds) in list(self._waiting.items()):
            known = {kind: self.kinds[kind] for kind in kinds if kind in self.kinds}
            begun = any(kinds == others for _, others in self._settling.values())
            if len(known) == len(kinds) or not begun:
                ref = actor.settle.remote(self.probes, known)
                self._settling[worker] = ref, kinds
                del self._waiting[worker]

    def _done(self, ref: Any) -> bool:
        """One question to Ray for all of them, now and then: it takes half a millisecond."""
        if time.monotonic() >= self._ask_again:
            self._ask_again = time.monotonic() + ASK_SECONDS
            refs = [ref for _, ref in self._loading.values()]
            refs += [ref for ref, _ in self._settling.values()]
            done, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
            self._finished = set(done)
        return ref in self._finished
