"""Placeholders in paths: {date}, {date-1} or {run}, replaced by what they mean."""

import datetime as dt
import re

from bertbatch.errors import JobError


def fill(key: str, path: str, day: dt.date, run: str) -> str:
    """A path of the job's key with its placeholders replaced. Raises JobError."""
    if re.search(r"://[^/]*:[^/]*@", path):
        raise JobError(
            f"{key}: holds a password, and paths are shown in logs and records; give it in "
            "storage_options, as ${NAME}"
        )

    def meant(match: re.Match[str]) -> str:
        if match[1] == "run":
            return run
        days = re.fullmatch(r"date(?:-(\d{1,5}))?", match[1])
        if days is None:
            raise JobError(
                f"{key}: {match[0]} is no placeholder; there are {{date}}, {{date-1}} (and so on) "
                "and {run}. For a brace in an input's name write ?"
            )
        try:
            return str(day - dt.timedelta(days=int(days[1] or 0)))
        except OverflowError:
            raise JobError(f"{key}: no day is {days[1]} days before {day}") from None

    return re.sub(r"\{([^{}]*)\}", meant, path)
