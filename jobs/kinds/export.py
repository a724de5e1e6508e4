"""`export`: what `millrace export` does, in a program of its own: TensorFlow does not survive the fork of a unit.

The result is `export.zip`, the folder of a version with its report, and the report's files beside it.
"""

import ctypes
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from jobs.context import Job
from jobs.failures import JobFailed
from jobs.kinds.base import whole
from jobs.memory import unlimit_memory
from jobs.parts import Outcome, Outputs, Part, Plan
from millrace.artifacts.repository import version_folders
from millrace.jobs.documents import ExportDocument
from millrace.protocol.errors import InvalidRequest, NotSupported
from millrace.protocol.paths import without_paths

_REPORTS = ("parity.md", "parity.json", "parity.png")
_ZIP = "export.zip"
_PR_SET_PDEATHSIG = 1
_PROGRAM = "millrace export: "
_LINES = 30  # of what it says, in the job's log


class Export:
    """See `jobs.kinds.base.Kind`."""

    name = "export"

    def plan(self, job: Job) -> Plan:
        """Find the model's file; there is one part."""
        if find_spec("training") is None or find_spec("keras") is None:
            raise NotSupported("export: the jobs program lacks what exports models (millrace[training])")
        _source(job)
        return Plan(parts=(Part(0, 0, 0),), rows=None)

    def run(self, job: Job, _plan: Plan, part: Part) -> Outcome:
        """Run the export; its folder as a file, and its report."""
        document = cast(ExportDocument, job.document)
        out = job.folder / "parts" / "export"
        shutil.rmtree(out, ignore_errors=True)
        arguments = ["export", str(_source(job)), "--to", ",".join(document.formats), "--out", str(out)]
        status, said = _run(job, [*arguments, *(["--force"] if document.force else [])])
        if status or not out.is_dir():
            raise JobFailed(f"export: {said or f'the program ended with status {status}'}")
        with whole(job.part_path(part.number, ".zip")) as path:
            _pack(out, path)
        return Outcome()

    def join(self, job: Job, plan: Plan, _outcomes: Sequence[Outcome]) -> Outputs:
        """Move the file to the results, with the report's files."""
        job.outputs.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(job.part_path(plan.parts[0].number, ".zip")) as packed:
            names = [name for name in _REPORTS if name in packed.namelist()]
            for name in names:
                with whole(job.outputs / name) as path:
                    path.write_bytes(packed.read(name))
        with whole(job.outputs / _ZIP) as path:
            shutil.copyfile(job.part_path(plan.parts[0].number, ".zip"), path)
        return Outputs(names=(_ZIP, *names))


KIND = Export()


def _source(job: Job) -> Path:
    """The model to export. Raises `InvalidRequest`."""
    document = cast(ExportDocument, job.document)
    if job.upload is not None:
        if job.upload.suffix != ".keras" or document.model:
            raise InvalidRequest("input: upload a .keras file, or name a published model, not both")
        if not zipfile.is_zipfile(job.upload):
            raise InvalidRequest("input: the uploaded file is damaged: a .keras file is a zip")
        return job.upload
    if not document.model:
        raise InvalidRequest("model: upload a .keras file, or name a published model")
    return _published(job.settings.models / document.model, document)


def _published(folder: Path, document: ExportDocument) -> Path:
    """The folder of the version that is named, or else of the newest. Raises `InvalidRequest`."""
    versions = version_folders(folder) if folder.is_dir() else {}
    if not versions:
        raise InvalidRequest(f"model: there is no published model {document.model!r}")
    found = versions.get(max(versions) if document.version is None else document.version)
    if found is None:
        known = ", ".join(map(str, versions))
        raise InvalidRequest(f"version: model {document.model!r} has no version {document.version}; it has {known}")
    return found


def _run(job: Job, arguments: Sequence[str]) -> tuple[int, str]:
    """Run `millrace`; its status, and what it said of its failure."""
    command = [sys.executable, "-P", "-m", "millrace", *arguments]
    program = subprocess.Popen(  # noqa: S603  # a program of ours
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=_before_it_runs(),
    )
    job.programs.append(program)
    said, _ = program.communicate()
    lines = str(said, "utf-8", "replace").strip().splitlines()
    for line in lines[-_LINES:]:
        job.log(without_paths(line))
    own = [line.removeprefix(_PROGRAM) for line in lines if line.startswith(_PROGRAM)]
    return program.returncode, "; ".join(own) or "\n".join(lines[-3:])


def _before_it_runs() -> Callable[[], object] | None:
    """What has the kernel end the program when this process is killed, where it can, and lifts the bound on memory."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        unlimit_memory()

    return prepare


def _pack(folder: Path, path: Path) -> None:
    """A zip of the folder's files, the same for the same files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                name = zipfile.ZipInfo(str(each.relative_to(folder)))  # whose time is always the same
                packed.writestr(name, each.read_bytes(), zipfile.ZIP_DEFLATED)
