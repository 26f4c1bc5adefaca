"""Writes a report: what was gathered, section by section, as one HTML file that needs no other."""

import base64
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from bertbatch.display.files import PAGE, check_ending, check_outside
from bertbatch.errors import JobError
from bertbatch.output.folder import Output
from bertbatch.report.blocks import Section, shown
from bertbatch.report.charts import check_installed
from bertbatch.report.material import Material, gather
from bertbatch.report.sections.attention import attention
from bertbatch.report.sections.comparison import comparison
from bertbatch.report.sections.facts import facts, state
from bertbatch.report.sections.groups import groups
from bertbatch.report.sections.heads import heads
from bertbatch.report.sections.judged import judged
from bertbatch.report.sections.labels import labels
from bertbatch.report.sections.lengths import lengths
from bertbatch.report.sections.quarantine import quarantine
from bertbatch.report.sections.rows import rows
from bertbatch.report.sections.runs import runs

TEMPLATE = Path(__file__).parent / "template"
SECTIONS: tuple[Callable[[Material], Section | None], ...] = (
    comparison,
    facts,
    judged,
    labels,
    lengths,
    runs,
    quarantine,
    rows,
    groups,
    attention,
    heads,
)


def write_report(
    output: Output,
    to: Path,
    other: Output | None = None,
    gold: str | None = None,
    model: str | None = None,
) -> int:
    """Writes a report on an output. Returns its size in bytes.

    `other`: an output over the same rows to compare with; `gold`: a column with the right answers;
    `model`: whose answers, if there are several. Raises JobError if the file would lie in an
    output or cannot be written, for an output or column that there is not, and without matplotlib.
    """
    check_installed()
    check_ending("--to", to, "a report", PAGE)
    check_outside(to, [output.path, *([other.path] if other else [])])
    material = gather(output, other, gold, model)
    made = (make(material) for make in SECTIONS)
    page = render(material, [section for section in made if section is not None])
    write_file(to, page)
    return len(page)


def render(material: Material, sections: list[Section]) -> bytes:
    """The page. All texts are escaped by the template, and its script is allowed by its hash."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    script = (TEMPLATE / "page.js").read_text()
    page = environment.get_template("page.html").render(
        name=shown(material.output.path.rstrip("/").rpartition("/")[2] or material.output.path),
        state=state(material),
        rows=material.scan.rows,
        sections=sections,
        style=(TEMPLATE / "page.css").read_text(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    return page.encode(errors="replace")


def write_file(to: Path, data: bytes) -> None:
    """Writes a file in one step, so that no half of it is ever there. Raises JobError."""
    name = ""
    try:
        with tempfile.NamedTemporaryFile(
            dir=to.parent, prefix=f".{to.name[:100]}.", delete=False
        ) as file:
            name = file.name
            file.write(data)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, to)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise JobError(f"--to {to}: cannot be written: {error.strerror or error}") from error


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found
