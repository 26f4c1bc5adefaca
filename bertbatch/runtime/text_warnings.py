"""Warnings about a corpus that does not suit the model, each given once."""

import logging

from bertbatch.job.schema import Job
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokenizer import UNKNOWN_SHARE, unknown_words
from bertbatch.runtime.alarms import ENOUGH_ROWS
from bertbatch.runtime.counts import Counts

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
        if share > TRUNCATED_SHARE:
            self._truncated_told = True
            what = (
                "model.max_length may be larger"
                if self._pair
                else "model.long_text: windows scores all of them, truncate says that this is meant"
            )
            log.warning(
                "%s%.0f %% of the texts so far are longer than %d tokens, and what follows is not "
                "scored; %s",
                self._model and f"{self._model}: ",
                100 * share,
                self._max_length,
                what,
            )
