"""The sources that a path means."""

from typing import Any

from bertbatch.inputs.listing import Listing, list_sources
from tests.helpers.jobs import make_job


def listed(path: Any) -> Listing:
    return list_sources(make_job("sentiment-mini", path, "/nowhere/out"))


def ids(path: Any) -> list[str]:
    return [source.id for source in listed(path).sources]
