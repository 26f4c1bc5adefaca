"""What a report is made of: everything that is read, before a section is written."""

from dataclasses import dataclass, field
from typing import Any

from bertbatch.checks.answers import Answers, Committed, committed, read_answers
from bertbatch.checks.compare import Agreement, compare
from bertbatch.checks.evaluate import REFUSED, Evaluation, evaluate
from bertbatch.checks.status import Status, read_status
from bertbatch.errors import JobError
from bertbatch.output.folder import Output
from bertbatch.report.scan import Scan, scan

RUNS = 200  # the last runs that a report has
FLIPS = 20  # rows with other answers in the other output


@dataclass
class Material:
    """What was read; `problems` says what is damaged.

    `there` is None if the plan cannot be read, `status` also if a part cannot.
    """

    answers: Answers
    there: Committed | None
    status: Status | None
    runs: list[dict[str, Any]]
    scan: Scan
    other: Output | None = None
    evaluation: Evaluation | None = None
    agreement: Agreement | None = None
    not_compared: str | None = None  # why there is no agreement
    problems: list[str] = field(default_factory=list)

    @property
    def rows_quarantined(self) -> int:
        """Rows in quarantine now, without those that were scored again since."""
        again = [unit.rows for unit in self.there.units if unit.retry] if self.there else []
        return self.scan.quarantined - sum(again)

    @property
    def output(self) -> Output:
        return self.answers.output


def gather(output: Output, other: Output | None, gold: str | None, model: str | None) -> Material:
    """Reads an output. Raises JobError for an output, column or model that there is not.

    What is damaged is noted, and the rest is shown.
    """
    answers = read_answers(output, model)
    if gold is not None:
        answers.check_there(gold)
    problems: list[str] = []
    there, status = None, None
    try:
        there = committed(answers)
        status = read_status(output, 1)
    except JobError as error:
        problems.append(str(error))
    except OSError:  # a part that cannot be read: the scan names it
        pass
    parts = there.parts if there else sorted(output.committed().values())
    rows = sum(unit.selected for unit in there.units) if there else 0
    found = Material(
        answers, there, status, output.runs(RUNS), scan(answers, parts, rows), other,
        problems=problems,
    )  # fmt: skip
    if there and there.standing.damaged:
        problems.append(f"it {there.standing.lack}")
    problems += [*found.scan.wrong, *found.scan.damaged.values()]
    if gold is not None and found.scan.rows and there:
        if why := REFUSED.get(answers.kind):
            raise JobError(f"--gold {gold}: {why}")
        found.evaluation = evaluate(output, gold, model, dict(found.scan.damaged))
    if other is not None:
        other.existing_contract()  # that it is an output: else nothing was meant to be compared
        try:
            right = None if answers.kind == "regression" else gold
            found.agreement = compare(output, other, right, FLIPS, model)
        except JobError as error:
            found.not_compared = str(error)
    return found
