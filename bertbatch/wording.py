"""Numbers, names, times in messages: written alike everywhere."""

from collections.abc import Sequence

SHOWN = 5  # names of a list that may be long
TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"  # ISO 8601 with the zone


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 row, 12,500 rows."""
    ending = "" if number == 1 else "es" if noun.endswith(("s", "ch")) else "s"
    return f"{number:,} {noun}{ending}"


def left_out(rows: int, joined: str = ",") -> str:
    """The end of an account, if there are such rows: ", 12 left out"."""
    return f"{joined} {rows:,} left out" if rows else ""


def size(bytes_: float) -> str:
    """A number of bytes: 512 B, 1.5 MB. Units are powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if bytes_ < 999.5:
            return f"{bytes_:.3g} {unit}"
        bytes_ /= 1000
    return f"{bytes_:,.3g} TB" if bytes_ < 999.5 else f"{bytes_:,.0f} TB"


def duration(seconds: float) -> str:
    """Seconds in at most two units: 42 s, 3 min 20 s, 5 h 12 min, 3 days 4 h."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{counted(whole // 86400, 'day')} {whole % 86400 // 3600} h"


def shorten(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
