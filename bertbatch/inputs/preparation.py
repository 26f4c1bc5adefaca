"""Texts as they are scored, if the job asks for more than a column's own.

Several columns are put together first (`input.template`), then the whole is normalized
(`input.normalize`), and `input.prefix` comes before it.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser

from bertbatch.job.input import Input
from bertbatch.job.text_template import parsed

# Elements whose content is no text.
_HIDDEN = ("script", "style", "template", "head", "noscript")
# Elements within a line: what stands around them belongs to the same word.
_INLINE = (
    *("a", "abbr", "b", "bdi", "bdo", "cite", "code", "data", "del", "dfn", "em", "font", "i"),
    *("ins", "kbd", "mark", "q", "s", "samp", "small", "span", "strike", "strong", "sub", "sup"),
    *("time", "tt", "u", "var", "wbr"),
)


def put_together(template: str, columns: Mapping[str, Sequence[str]]) -> list[str]:
    """The texts of a template, from the values of its columns."""
    parts = parsed(template)
    rows = zip(*(columns[name] for _, name in parts if name), strict=True)
    texts = []
    for values in rows:
        left = iter(values)
        texts.append("".join(text + (next(left) if name else "") for text, name in parts))
    return texts


def prepared(texts: list[str], options: Input, prefix: str = "") -> list[str]:
    """The texts normalized, each after the prefix."""
    for name in options.normalize:
        texts = [NORMALIZERS[name](text) for text in texts]
    return [prefix + text for text in texts] if prefix else texts


def without_html(text: str) -> str:
    """The text of HTML: entities as characters, a space for each element that is not in a line."""
    if "<" not in text and "&" not in text:
        return text
    parser = _Text()
    parser.feed(text)
    parser.close()
    return "".join(parser.parts)


class _Text(HTMLParser):
    """Collects the text that a reader would see."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._hidden += tag in _HIDDEN
        self._between(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self._between(tag)

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(self._hidden - (tag in _HIDDEN), 0)
        self._between(tag)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)

    def _between(self, tag: str) -> None:
        if tag not in _INLINE:
            self.parts.append(" ")


NORMALIZERS: dict[str, Callable[[str], str]] = {
    "nfkc": lambda text: unicodedata.normalize("NFKC", text),
    "html": without_html,
    "whitespace": lambda text: " ".join(text.split()),
}
