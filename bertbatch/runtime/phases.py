"""Phases of a run before it scores, told by the log so that they need no way of their own.

A display shows the phase instead of a line; a child process passes its log on anyway.
"""

import logging

log = logging.getLogger("bertbatch")


def phase(what: str) -> None:
    """Says what the run does from now on: "starting Ray"."""
    log.info("%s", what, extra={"phase": what})
