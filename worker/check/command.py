"""The command line of `millrace check`: finds the models, runs a probe for each, and prints what it reports."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import msgspec

from millrace.artifacts.configs import ConfigError
from millrace.artifacts.repository import RepositoryError
from millrace.commandline import Parser, device
from millrace.devices import DEVICE_HELP
from millrace.protocol.messages import NO_VERSION
from millrace.settings import SettingsError, load
from worker.backends import FORMATS
from worker.check import text
from worker.check.report import Job, Phase, Report
from worker.processes.starter import NO_THREADS
from worker.processes.verdict import in_words
from worker.reconciling.catalogue import Catalogue, DesiredModel
from worker.settings import WorkerSettings

PROG = "millrace check"
_FIRST_RUNS = "first runs"
_URL, _GRPC = "http://localhost:8000", "localhost:8001"
_MESSAGES: "msgspec.json.Decoder[Phase | Report]" = msgspec.json.Decoder(Phase | Report)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns 0 where every model can be served, 1 where one cannot, 2 for a wrong call."""
    arguments = parser().parse_args(argv)
    try:
        settings = load(
            WorkerSettings,
            os.environ,
            device=arguments.device,
            backend=arguments.backend,
            allow_code=arguments.allow_code,
        )
        desired = Catalogue(Path(arguments.model)).read({})
    except SettingsError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 2
    except (RepositoryError, ConfigError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    if not desired:
        print(f"{PROG}: {arguments.model} holds no model", file=sys.stderr)
        return 1
    reports = []
    for report in _reports(desired, settings, arguments.url, arguments.grpc, arguments.timeout):
        reports.append(report)
        if not arguments.json:
            print("\n".join(text.lines(report)), end="\n\n", flush=True)
    if arguments.json:
        print(msgspec.json.format(msgspec.json.encode(reports), indent=2).decode())
    return 1 if any(report.error for report in reports) else 0


def parser(environ: Mapping[str, str] = os.environ) -> Parser:
    """The options."""
    options = Parser(
        prog=PROG,
        description="Load a model as a worker would, in a process of its own, and say what will be served, whether "
        "rows are batched and why, what was left out, what runs cost, and how to ask it in each protocol.",
        examples=[
            "millrace check model.onnx",
            "millrace check models            # every model of a repository",
            "millrace check models --json",
        ],
    )
    options.add_argument("model", metavar="MODEL", help="a model's file or folder, a version's folder, or a repository")
    options.add_argument("--json", action="store_true", help="print JSON")
    options.add_setting("--device", WorkerSettings, DEVICE_HELP, type=device)
    options.add_setting("--backend", WorkerSettings, "the format to load", choices=["auto", *FORMATS])
    options.add_setting("--allow-code", WorkerSettings, "let the model run Python code of its own", action="store_true")
    url, grpc = _addresses(environ.get("MILLRACE_URL", ""))
    options.add_argument("--url", default=url, help="where the example requests go (default %(default)s; MILLRACE_URL)")
    options.add_argument("--grpc", default=grpc, help="the same over gRPC (default %(default)s; MILLRACE_URL)")
    options.add_argument("--timeout", type=float, default=600.0, help="seconds that one model may take (default 600)")
    return options


def _addresses(server: str) -> tuple[str, str]:
    """The addresses for HTTP and for gRPC, where a variable names one of both."""
    scheme, _, address = server.rstrip("/").partition("://")
    is_grpc = scheme in ("grpc", "grpcs")
    return (server if server and not is_grpc else _URL), (address if is_grpc else _GRPC)


def _reports(
    desired: Mapping[str, DesiredModel], settings: WorkerSettings, url: str, grpc: str, timeout_s: float
) -> Iterator[Report]:
    """A report of each version that a worker would load."""
    for name, model in desired.items():
        if model.error:
            yield Report(model=name, version=NO_VERSION, folder=str(model.folder), error=model.error)
            continue
        for version in model.versions():
            job = Job(
                folder=str(model.version_folder(version)),
                name=name,
                version=version,
                config=model.config,
                device=settings.device,
                gpu_memory_mb=settings.gpu_memory_mb,
                gpu_tf32=settings.gpu_tf32,
                threads=settings.threads,
                backend=settings.backend,
                max_batch_size=settings.max_batch_size,
                url=url.rstrip("/"),
                grpc=grpc,
                allow_code=settings.allow_code,
            )
            yield _with_notes(_probed(job, timeout_s), model)


def _with_notes(report: Report, model: DesiredModel) -> Report:
    """The report with what is passed over in the model's folder."""
    if report.announcement is None or not model.notes:
        return report
    notes = (*report.announcement.notes, *model.notes)
    return msgspec.structs.replace(report, announcement=msgspec.structs.replace(report.announcement, notes=notes))


def _probed(job: Job, timeout_s: float) -> Report:
    """What a probe reports; of one that ended, how it ended. One that ends in its first runs is loaded without them."""
    found, phase, words = _run(job, timeout_s)
    if found is None and phase == _FIRST_RUNS:
        found, phase, words = _run(
            msgspec.structs.replace(job, not_run=f"its process ended in its first runs ({words})"), timeout_s
        )
    if found is None:
        error = f"its process ended while it was loaded: {words}"
        return Report(model=job.name, version=job.version, folder=job.folder, error=error)
    if words and not found.error:
        return msgspec.structs.replace(found, untried=f"its process ended while it ran {phase}: {words}")
    return found


def _run(job: Job, timeout_s: float) -> tuple[Report | None, str, str]:
    """The last that the probe reported, what it did last, and how it ended, "" where it came to its end."""
    path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)  # where this process has its modules from
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as reports:  # which are never full, as pipes are
        fd = reports.fileno()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "worker.check.probe", msgspec.json.encode(job).decode(), str(fd)],
            env={**os.environ, **NO_THREADS, "PYTHONPATH": path},
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stderr=errors,
        )
        words = _ended(process, errors, timeout_s)
        reports.seek(0)
        found, phase = None, "load"
        for message in map(_MESSAGES.decode, reports.read().rpartition(b"\n")[0].splitlines()):
            if isinstance(message, Report):
                found = message
            else:
                phase = message.name
        return found, phase, words


def _ended(process: "subprocess.Popen[bytes]", errors: IO[bytes], timeout_s: float) -> str:
    """How the process ended, with the last that it wrote; "" where all went well."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"it took more than {timeout_s:g} s"
    if not process.returncode:
        return ""
    errors.seek(0)
    last = errors.read().decode(errors="replace").strip().rpartition("\n")[2][:300]
    status = -process.returncode if process.returncode < 0 else process.returncode << 8
    return in_words("itself", status) + (f" ({last})" if last else "")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    raise SystemExit(main())
