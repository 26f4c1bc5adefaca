"""Texts that are made of several columns: '{title}. {body}'."""

from string import Formatter


def parsed(template: str) -> list[tuple[str, str | None]]:
    """The parts of a template: plain text, and the column that follows it, if any.

    `{{` and `}}` are braces. Raises ValueError.
    """
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        raise ValueError(
            "has a brace without its pair; write {{ and }} for braces that name no column"
        ) from None
    for _, column, spec, conversion in parts:
        if column == "" or spec or conversion:
            raise ValueError("each {} must hold the name of a column, and nothing else")
    if not any(column for _, column, _, _ in parts):
        raise ValueError("must name at least one column, as in '{title}. {body}'")
    return [(text, column) for text, column, _, _ in parts]


def columns_of(template: str) -> list[str]:
    """The columns that a template names, each once."""
    return list(dict.fromkeys(column for _, column in parsed(template) if column))
