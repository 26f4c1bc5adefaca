"""YAML from untrusted sources: plain data of bounded size, errors that quote nothing."""

import re
from itertools import chain
from typing import Any

import yaml

MOST_TIMES = 10  # the characters of a YAML text that it may have with aliases written out
MOST_LEVELS = 100
MOST_DIGITS = 1000  # PyYAML takes hours for an endless number


def read_yaml(text: str | bytes) -> Any:
    """Plain data from YAML. Raises ValueError, which does not quote the text: it may be secret.

    A few lines of aliases to aliases can stand for more than any memory holds: not that either.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        size, levels = _extent(node, {})
        if size > MOST_TIMES * (len(text) + 1000) or levels > MOST_LEVELS:
            raise ValueError("it is nested too deeply, or its aliases stand for too much")
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a 30 February
        what = getattr(error, "problem", None) or str(error)
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        # From the first quote on, unless that is of a single character or a token's kind.
        what = re.sub(r"""(["'])(?!(.|<[\w ]+>)\1).*""", "…", what, flags=re.DOTALL)
        raise ValueError(what + where) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:  # whatever a value provokes that its tag does not fit
        raise ValueError(f"a value does not fit its tag ({type(error).__name__})") from None


def _extent(node: yaml.Node, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """A node's characters and levels, aliases written out; too many if it holds itself."""
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > MOST_DIGITS and node.tag.endswith((":int", ":float")):
            raise ValueError(f"a number has more than {MOST_DIGITS} digits")
        return 1 + len(node.value), 1
    if id(node) not in known:
        known[id(node)] = 0, MOST_LEVELS
        mapping = isinstance(node, yaml.MappingNode)
        inner = [_extent(n, known) for n in (chain(*node.value) if mapping else node.value)]
        sizes, levels = zip((1, 0), *inner, strict=True)
        known[id(node)] = sum(sizes), 1 + max(levels)
    return known[id(node)]
