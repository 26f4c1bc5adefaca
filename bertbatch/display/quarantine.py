"""Rows in quarantine by name: where each is, why it could not be scored; never what it says."""

import shlex

from bertbatch.output.folder import Output

MOST = 160  # characters of a reason


def name_row(source: str, number: int, reason: str) -> str:
    short = reason if len(reason) <= MOST else f"{reason[: MOST - 1]}…"
    return f"{source}, row {number}: {' '.join(short.split())}"


def tell_of_all(output: Output) -> None:
    """The command that lists all of them."""
    if output.store.protocol != "memory":  # which no other process can read
        command = f"bertbatch status {shlex.quote(output.url)} --quarantined"
        print(f"all rows in quarantine: {command}")  # in one line, which can be copied
