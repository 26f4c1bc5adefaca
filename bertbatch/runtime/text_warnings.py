"""Warnings about a corpus that does not suit the model, each given once."""

import logging
from collections.abc import Iterator

from bertbatch.job.schema import Job
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokenizer import UNKNOWN_SHARE, unknown_words
from bertbatch.runtime.counts import ENOUGH_ROWS, Counts

log = logging.getLogger("bertbatch")

TRUNCATED_SHARE = 0.05  # of the rows: above it, cutting them off is a choice to make


class TextWarnings:
    """Looks at what is counted so far of one model's texts."""

    def __init__(self, job: Job, model: str, spec: ModelSpec):
        self._model = model
        self._name = spec.name
        self._max_length = spec.max_length
        self._chosen = "long_text" in job.each_model[model].model_fields_set
        self._pair = job.input.text_pair is not None
        self._unknown_told = self._truncated_told = False

    def look(self, counts: Counts) -> None:
        """Logs a warning if there is one that was not given yet."""
        content = counts.content[self._model]
        if content >= ENOUGH_ROWS and not self._unknown_told:
            share = counts.unknown[self._model] / content
            if share > UNKNOWN_SHARE:
                self._unknown_told = True
                log.warning("%s", unknown_words(share, self._name))
        if counts.rows_scored < ENOUGH_ROWS or self._truncated_told or self._chosen:
            return
        share = counts.truncated[self._model] / counts.rows_scored
        for said in truncated_texts(
            self._model, share, self._max_length, self._pair, "the texts so far"
        ):
            self._truncated_told = True
            log.warning("%s", said)


def truncated_texts(
    model: str, share: float, max_length: int, pair: bool, which: str = "the texts"
) -> Iterator[str]:
    """The warning for this share of truncated texts, if it needs one."""
    if share <= TRUNCATED_SHARE:
        return
    what = (
        "model.max_length may be larger"
        if pair
        else "model.long_text: windows scores all of them, truncate says that this is meant"
    )
    yield (
        f"{model and f'{model}: '}{100 * share:.0f} % of {which} are longer than "
        f"{max_length} tokens, and what follows is not scored; {what}"
    )
