"""Ctrl-C or SIGTERM as a request to stop."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("bertbatch")


class StopSignal:
    """`number` is the signal that was received, 0 if none."""

    number = 0

    @contextmanager
    def handled(self) -> Iterator[None]:
        """The first signal is only noted; a second one raises KeyboardInterrupt.

        Signals reach the main thread only: on others nothing is changed.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._note) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number
        again = "press Ctrl-C again" if number == signal.SIGINT else "send the signal again"
        log.warning("stopping: finishing commits in progress; %s to stop now", again)
