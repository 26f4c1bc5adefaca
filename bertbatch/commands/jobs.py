"""Commands that run a job, or say what it would do."""

from contextlib import closing
from typing import Annotated, Any

import typer

from bertbatch.commands.command import command
from bertbatch.commands.job_flags import job_of, takes_job_flags
from bertbatch.commands.options import Date, Input, JobFile, Log, Name, Set, Style, Verbose
from bertbatch.errors import JobError
from bertbatch.job.schema import Job


@command
@takes_job_flags
def score(
    input: Input,
    output: Annotated[
        str, typer.Argument(metavar="OUTPUT", help="the folder or URL for the predictions")
    ],
    set: Set = None,
    log: Log = "auto",
    verbose: Verbose = False,
    **flags: Any,
) -> int:
    """Score INPUT into OUTPUT; the same command again resumes."""
    return _run(job_of(input, output, flags, set), log, verbose)


@command
def run(
    job: JobFile,
    set: Set = None,
    date: Date = None,
    name: Name = None,
    retry_quarantined: Annotated[
        bool, typer.Option("--retry-quarantined", help="score rows in quarantine again")
    ] = False,
    log: Log = "auto",
    verbose: Verbose = False,
) -> int:
    """Run a job file; the same command again resumes, or scores only what is new."""
    changes = _changes(set, date, name)
    if retry_quarantined:
        changes.append("runtime.retry_quarantined=true")
    return _run(_loaded(str(job), changes, "score data by: score"), log, verbose)


@command
@takes_job_flags
def plan(
    job: Annotated[
        str, typer.Argument(metavar="JOB|INPUT", help="a job file; or, with OUTPUT, the input")
    ],
    output: Annotated[
        str | None, typer.Argument(metavar="OUTPUT", help="as of `score`, with its options")
    ] = None,
    set: Set = None,
    date: Date = None,
    name: Name = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="load the model and measure its rate here")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=1, help="with --device-rate: how many workers elsewhere")
    ] = 1,
    device_rate: Annotated[
        float | None,
        typer.Option(min=1, help="tokens/s of a worker elsewhere", show_default="none"),
    ] = None,
    price_per_hour: Annotated[
        float | None,
        typer.Option(min=0, help="with --device-rate: the price of a worker", show_default="none"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print it as JSON")] = False,
    **flags: Any,
) -> int:
    """Show what a job would do and cost: sources, rows, lengths, time. Writes nothing."""

    from bertbatch.checks.estimate import REFUSED
    from bertbatch.checks.forecast import Elsewhere
    from bertbatch.checks.outlook import look_ahead
    from bertbatch.display.plain_json import show_json
    from bertbatch.display.plan import show_plan
    from bertbatch.runtime.run import preflight

    changes = _changes(set, date, name)
    if output is None:
        if given := [name for name, value in flags.items() if value]:
            raise JobError(
                f"--{given[0].replace('_', '-')} goes with INPUT and OUTPUT; change a job file's "
                "key by --set"
            )
        found = preflight(_loaded(job, changes, "to plan data, name OUTPUT, too: plan"))
    else:
        found = preflight(job_of(job, output, flags, changes))
    if device_rate is None and price_per_hour is not None:
        raise JobError("--price-per-hour needs --device-rate, the tokens/s of a worker")
    elsewhere = Elsewhere(workers, device_rate, price_per_hour) if device_rate else None
    outlook = look_ahead(found, measure, elsewhere)
    if json:
        show_json(outlook.record)
    else:
        show_plan(outlook)
    return 3 if outlook.estimate.count(REFUSED) else 0  # as the run would end


@command
def submit(
    job: JobFile,
    address: Annotated[
        str,
        typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="the cluster's dashboard, http://…"),
    ],
    set: Set = None,
    date: Date = None,
    name: Name = None,
    id: Annotated[
        str | None, typer.Option("--id", help="the submission's id", show_default="made up")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="exit after submitting, without following the job")
    ] = False,
    package: Annotated[
        bool, typer.Option(help="upload bertbatch itself; --no-package if the image has it")
    ] = True,
    retries: Annotated[int, typer.Option(min=0, help="resubmit this often if the driver dies")] = 2,
) -> int:
    """Run a job file on a Ray cluster, follow its log, and exit with its code."""

    from bertbatch.display.progress import ask_to_stop, make_listener
    from bertbatch.runtime.submit import Submission, submit

    changes = _changes(set, date, name)
    with closing(make_listener("plain")):
        return submit(
            Submission(job, changes, address, id, package, retries),
            detach,
            ask_to_stop,
            lambda text: print(text, end="", flush=True),
        )


def _loaded(path: str, changes: list[str], instead: str) -> Job:
    """The job of a file. Raises JobError that says what to do if data was named instead."""
    try:
        return Job.load(path, changes)
    except JobError as error:
        if path.endswith((".yaml", ".yml")):
            raise
        raise JobError(f"{error} ({instead} INPUT OUTPUT)") from error


def _changes(set: list[str] | None, date: str | None, name: str | None) -> list[str]:
    given = {"date": date, "run": name}
    return [*(set or []), *(f"{key}={value!r}" for key, value in given.items() if value)]


def _run(job: Job, log: Style, verbose: bool) -> int:
    from bertbatch.runtime.executors.start import Starting

    with Starting(job, verbose) as starting:  # a child imports torch while this process imports:
        from bertbatch.display.progress import make_listener
        from bertbatch.runtime.run import run_started

        with closing(make_listener(log)) as listener:
            return run_started(job, starting, listener).exit_code
