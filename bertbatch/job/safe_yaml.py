"""YAML from untrusted sources: plain data of bounded size, errors that quote nothing."""

from collections.abc import Sequence
from itertools import chain
from typing import Any

import yaml

from bertbatch.job.yaml_errors import at, explain_yaml

MOST_TIMES = 10  # the characters of a YAML text that it may have with aliases written out
MOST_LEVELS = 100
MOST_DIGITS = 1000  # PyYAML takes hours for an endless number
MERGE = "tag:yaml.org,2002:merge"


def read_yaml(text: str) -> Any:
    """Plain data from YAML. Raises ValueError, which does not quote the text: it may be secret.

    A few lines of aliases to aliases can stand for more than any memory holds: not that either.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        size, levels = _extent(node, {}, loader)
        if size > MOST_TIMES * (len(text) + 1000) or levels > MOST_LEVELS:
            raise ValueError("it is nested too deeply, or its aliases stand for too much")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(explain_yaml(error, text)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise
    except Exception as error:  # whatever a value provokes that its tag does not fit
        raise ValueError(f"a value does not fit its tag ({type(error).__name__})") from None


def line_of(text: str, keys: Sequence[str | int]) -> int | None:
    """The line of the last of nested keys that is in a YAML text, counted from 1."""
    node, line = yaml.compose(text, yaml.SafeLoader), None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = [(k, value) for k, value in node.value if k.value == str(key)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            found = [(one, one) for one in node.value[key : key + 1]]
        else:
            found = []
        if not found:
            break
        (named, node), *_ = found
        line = named.start_mark.line + 1
    return line


def _extent(
    node: yaml.Node, known: dict[int, tuple[int, int]], loader: yaml.SafeLoader
) -> tuple[int, int]:
    """A node's characters and levels, aliases written out; too many if it holds itself."""
    if isinstance(node, yaml.ScalarNode):
        _check_value(node, loader)
        return 1 + len(node.value), 1
    if id(node) not in known:
        known[id(node)] = 0, MOST_LEVELS
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            parts = chain(*node.value)
        inner = [_extent(n, known, loader) for n in parts]
        sizes, levels = zip((1, 0), *inner, strict=True)
        known[id(node)] = sum(sizes), 1 + max(levels)
    return known[id(node)]


def _check_value(node: yaml.ScalarNode, loader: yaml.SafeLoader) -> None:
    """Raises ValueError for a number or a time that is none, such as a 30 February."""
    number = node.tag.endswith((":int", ":float"))
    if number and len(node.value) > MOST_DIGITS:
        said = f"a number has more than {MOST_DIGITS} digits"
        raise ValueError(at(node.start_mark, said))
    if number and ":" in node.value:  # in base 60, which nobody means by 8:30
        said = "a number cannot have ':'; if this is text, put it in quotes"
        raise ValueError(at(node.start_mark, said))
    if number or node.tag.endswith(":timestamp"):
        try:
            loader.construct_object(node)
        except Exception:  # of any type, for a tag that the value does not fit
            what = "number" if number else "day or time"
            said = f"this is no {what}; if it is text, put it in quotes"
            raise ValueError(at(node.start_mark, said)) from None


def _check_keys(node: yaml.MappingNode) -> None:
    """Raises ValueError if a key is there twice, of which YAML's readers drop one silently."""
    seen: dict[tuple[str, str], yaml.Mark] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
            continue
        if first := seen.get((key.tag, key.value)):
            said = f"a key is there twice, first in line {first.line + 1}; keep one"
            raise ValueError(at(key.start_mark, said))
        seen[key.tag, key.value] = key.start_mark
