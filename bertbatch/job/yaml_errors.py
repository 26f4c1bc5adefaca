"""What is wrong with a text that is no YAML, in words for those who wrote it.

The parser's own words tell of its grammar. Nothing is quoted but a single character, since what
stands there may be a secret.
"""

import re

import yaml

_QUOTES = "put the whole value in quotes"
# The first that fits the parser's context and problem says it; `begin` if the mark that helps is
# where what is not closed began.
_KINDS: list[tuple[str, str, bool]] = [
    (r"character '\\t'", "a tab: YAML is indented by spaces", False),
    (r"character '(.)' that", "a value cannot begin with {0}: " + _QUOTES, False),
    (r"quoted scalar.*unexpected", "a quote that begins here is not closed", True),
    (r"escape", "a backslash means itself only in single quotes, or twice", False),
    (r"flow mapping", "a comma is missing, or the }} of the {{ that begins here, or quotes around "
     "a value with braces or commas in it", True),
    (r"flow sequence", "a comma is missing, or the ] of the [ that begins here", True),
    (r"content", "a value is missing before this, or a bracket is one too many", False),
    (r"values are not", "': ' for the second time, or a wrong indentation: the keys of a section "
     "begin in one column; if ': ' is part of a value, " + _QUOTES, False),
    (r"block end.*mapping start", "a wrong indentation: the keys of a section begin in one column",
     False),
    (r"block end.*'-'|sequence entries", "a list item (-) where there is no list: its items begin "
     "in one column, each in a line of its own", False),
    (r"block end", "something follows a value that is complete: " + _QUOTES, False),
    (r"find expected ':'", "a key without ': ' after it", False),
    (r"undefined alias|an alias", "a value that begins with * means an anchor, which is not there: "
     + _QUOTES, False),
    (r"duplicate anchor", "two anchors (&) have one name", False),
    (r"an anchor", "a value that begins with & is an anchor: " + _QUOTES, False),
    (r"\btag\b", "a value that begins with ! is a tag, and job files have none: " + _QUOTES, False),
    (r"base64", "a value that is not base64, as its tag !!binary says", False),
    (r"block scalar", "a value that begins with | or > is a block: " + _QUOTES, False),
    (r"single document", "a second document begins here (---), and a file is one job", False),
    (r"merging", "'<<' must be followed by an alias of a section", False),
    (r"\bkey\b|keys are", "a key must be plain text; if this is a value, " + _QUOTES, False),
    (r"document start|directive", "something that is no key with a value: check the brackets, "
     "quotes and indentation before it", False),
]  # fmt: skip


def explain_yaml(error: yaml.YAMLError, text: str) -> str:
    """The line and column of an error in a text, then what is wrong there."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        column = error.position - before.rfind("\n")
        line, code = before.count("\n") + 1, error.character
        said = f"a control character (U+{code:04X}), which no job file has"
        return f"line {line}, column {column}: {said}"
    problem = f"{getattr(error, 'context', '')} {getattr(error, 'problem', '')}"
    mark = getattr(error, "problem_mark", None)
    for pattern, said, begin in _KINDS:
        if found := re.search(pattern, problem):
            mark = (getattr(error, "context_mark", None) if begin else None) or mark
            return at(mark, said.format(*found.groups()))
    return at(mark, "this is no YAML")


def at(mark: yaml.Mark | None, said: str) -> str:
    """What is said of a place, after the place."""
    return f"line {mark.line + 1}, column {mark.column + 1}: {said}" if mark else said
