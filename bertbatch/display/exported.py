"""What an export did."""

from bertbatch.display.facts import Facts
from bertbatch.display.lines import show
from bertbatch.exports.export import Exported
from bertbatch.wording import counted, left_out


def show_exported(done: Exported) -> None:
    """The rows added, those that the target has, and those that it has not."""
    facts = Facts()
    added = counted(done.rows_added, "row") if done.rows_added else "nothing new"
    facts.add("written", added)
    absent = f"{done.rows_quarantined:,} in quarantine{left_out(done.rows_left_out)}"
    facts.add("target", f"{counted(done.rows, 'row')} as {done.format}; absent: {absent}")
    if done.lack:
        facts.add("", f"the output {done.lack}: export again when that is mended")
    facts.add("", done.target)
    show(facts)
