"""Numbers, names, times in messages: written alike everywhere."""

from collections.abc import Sequence

SHOWN = 5  # names of a list that may be long
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"  # ISO 8601 with the zone


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 row, 12,500 rows."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number:,} {noun}{ending}"


def shorten(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
