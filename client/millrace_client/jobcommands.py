"""`millrace jobs submit|list|show|cancel|retry|result|logs|delete`: background jobs on the command line."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from millrace_client.client import Client
from millrace_client.connectionoptions import connection_of_a_part
from millrace_client.errors import InvalidRequest
from millrace_client.jobrequests import format_of
from millrace_client.jobs import Job
from millrace_client.jobstatus import JobStatus
from millrace_client.progressbar import ProgressBar
from millrace_client.tables import print_table

_SUFFIX_NOTE = "its ending says the format: .csv, .jsonl, .parquet, .arrow, .npy, .npz"


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the commands to the parser."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="COMMAND")
    connection = connection_of_a_part()
    _declare_submit(
        commands.add_parser(
            "submit",
            help="submit a job, and show its progress",
            description="Submit a job, show its progress until it ends, and write its result to --output.",
            epilog="example: millrace jobs submit score --model sentiment --input reviews.csv --column text "
            "--output scored.csv",
            parents=[connection],
        )
    )
    text = "list the newest jobs"
    listing = commands.add_parser("list", help=text, description=f"{text.capitalize()}.", parents=[connection])
    listing.add_argument("--state", action="append", default=[], help="only jobs in this state; may be repeated")
    listing.add_argument("--limit", type=int, default=20, help="how many (default: %(default)s)")
    for name, text in _ON_ONE.items():
        description = f"{text[0].upper()}{text[1:]}."
        command = commands.add_parser(name, help=text, description=description, parents=[connection])
        command.add_argument("id", help="the job's id")
        if name == "result":
            command.add_argument("--out", type=Path, required=True, metavar="FILE", help="where to write it")
            command.add_argument("--name", help="which of the job's outputs (default: the main one)")
        if name == "show":
            command.add_argument("--json", action="store_true", help="all that is known, as JSON")
            command.add_argument("--follow", action="store_true", help="show the progress until it ends")


def run(client: Client, options: argparse.Namespace) -> None:
    """Run the command."""
    _RUN[options.action](client, options)


def _declare_submit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", help="score, evaluate, export, or a kind that the server adds")
    parser.add_argument("--model", help="the model's name")
    parser.add_argument("--version", type=int, help="its version (default: the newest)")
    parser.add_argument("--label", help="a label that stands for a version")
    parser.add_argument(
        "--input", metavar="FILE", help="a file here, which is uploaded, or a URL that the server reads"
    )
    parser.add_argument("--server-input", metavar="PATH", help="a file below the server's folder for jobs")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="COLUMN",
        help="the column for a model with one input; or input=column, once for each input",
    )
    parser.add_argument(
        "--output", metavar="FILE", help=f"where the result goes: a file here, or a URL; {_SUFFIX_NOTE}"
    )
    parser.add_argument("--target", help="evaluate: the column of the right answers")
    parser.add_argument("--labels", action="store_true", help="score: write the best class's name")
    parser.add_argument("--top-k", type=int, metavar="K", help="score: write the K best classes")
    parser.add_argument("--max-errors", type=int, metavar="N", help="fail when the model refuses more rows than this")
    parser.add_argument("--format", action="append", metavar="FORMAT", help="export: a format; may be repeated")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="any field of the job")
    parser.add_argument("--callback-url", metavar="URL", help="a URL that is called when the job ends")
    parser.add_argument("--id", help="an id of your own: the same job is made once")
    parser.add_argument("--detach", action="store_true", help="print the id, and wait for nothing")


def _submit(client: Client, options: argparse.Namespace) -> None:
    local = options.output if options.output and "://" not in options.output else None
    document = _document(options, local)
    if local and options.detach:
        raise InvalidRequest("--output with --detach: fetch the result later with `millrace jobs result ID --out FILE`")
    job = client.jobs.submit(document, options.input, id=options.id)
    print(job.id, flush=True)
    if options.detach:
        return
    _follow(job)
    if local:
        job.result(local)
        print(local)


def _document(options: argparse.Namespace, local_output: str | None) -> dict[str, Any]:
    is_export = options.kind == "export"
    given = {
        "kind": options.kind,
        "model": options.model,
        "version": options.version,
        "label": options.label,
        "input": options.server_input,
        "output": None if local_output else options.output,
        "output_format": format_of(local_output) if local_output and options.kind == "score" else None,
        "target": options.target,
        "labels": options.labels or None,
        "top_k": options.top_k,
        "max_errors": options.max_errors,
        "formats": options.format if is_export else None,
        "callback_url": options.callback_url,
        **_columns(options.column),
    }
    return {name: value for name, value in given.items() if value is not None} | dict(map(_field, options.set))


def _columns(given: list[str]) -> dict[str, Any]:
    named = dict(each.split("=", 1) for each in given if "=" in each)
    plain = [each for each in given if "=" not in each]
    if len(plain) > 1 or (plain and named):
        raise InvalidRequest("--column: give one column, or input=column for each input")
    return {"columns": named or None, "column": plain[0] if plain else None}


def _field(given: str) -> tuple[str, Any]:
    name, _, value = given.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _follow(job: Job) -> None:
    """Show the progress. Raises `JobFailed`."""
    with ProgressBar(sys.stderr) as bar:
        for status in job.progress():
            bar.show(status)
    job.wait()


def _list(client: Client, options: argparse.Namespace) -> None:
    jobs = client.jobs.list(limit=options.limit, states=options.state)
    header = ("ID", "KIND", "MODEL", "STATE", "ROWS", "ERRORS", "CREATED")
    print_table([header, *(_row(job.status) for job in jobs)])


def _row(status: JobStatus) -> tuple[str, ...]:
    rows = f"{status.rows_done}/{'?' if status.rows is None else status.rows}"
    model = str(status.document.get("model") or "-")
    return status.id, status.kind, model, status.state, rows, str(status.errors), status.created[:19]


def _show(client: Client, options: argparse.Namespace) -> None:
    job = client.jobs.get(options.id)
    if options.follow:
        _follow(job)
    status = job.status
    known = {name: getattr(status, name) for name in status.__slots__}
    if options.json:
        print(json.dumps(known, ensure_ascii=False))
        return
    for name, value in known.items():
        if value not in (None, "", (), {}):
            shown = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | tuple) else value
            print(f"{name:16} {shown}")


def _changed(change: Callable[[Job], JobStatus]) -> Callable[[Client, argparse.Namespace], None]:
    def run(client: Client, options: argparse.Namespace) -> None:
        status = change(client.jobs.get(options.id))
        print(f"{status.id} {status.state}")

    return run


def _result(client: Client, options: argparse.Namespace) -> None:
    print(client.jobs.get(options.id).result(options.out, name=options.name))


def _logs(client: Client, options: argparse.Namespace) -> None:
    for line in client.jobs.get(options.id).logs():
        print(line)


def _delete(client: Client, options: argparse.Namespace) -> None:
    client.jobs.get(options.id).delete()


_ON_ONE = {
    "show": "show what is known of a job",
    "cancel": "stop a job",
    "retry": "go on with a job that failed or was canceled",
    "result": "write the result of a job to a file, once it has finished",
    "logs": "print the last lines of a job's log",
    "delete": "forget a job and its files",
}
_RUN: dict[str, Callable[[Client, argparse.Namespace], None]] = {
    "submit": _submit,
    "list": _list,
    "show": _show,
    "cancel": _changed(Job.cancel),
    "retry": _changed(Job.retry),
    "result": _result,
    "logs": _logs,
    "delete": _delete,
}
