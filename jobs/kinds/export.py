"""`export`: what `millrace export` does, in a program of its own: TensorFlow does not survive the fork of a unit.

The result is `export.zip`, the folder of a version with its report, and the report's files beside it.
"""

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from jobs.context import Job
from jobs.kinds.base import whole
from jobs.parts import Outcome, Outputs, Part, Plan
from millrace.jobs.documents import ExportDocument
from millrace.protocol.errors import InvalidRequest, MillraceError, NotSupported

_REPORTS = ("parity.md", "parity.json", "parity.png")
_ZIP = "export.zip"
_SAID = 2000  # characters of what the program said last


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
            raise ExportFailed(f"export: {said or f'the program ended with status {status}'}")
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


class ExportFailed(MillraceError):
    """The export ended without its folder; the text is what it said last."""


KIND = Export()


def _source(job: Job) -> Path:
    """The model to export. Raises `InvalidRequest`."""
    document = cast(ExportDocument, job.document)
    if job.upload is not None:
        if job.upload.suffix != ".keras" or document.model:
            raise InvalidRequest("input: upload a .keras file, or name a published model, not both")
        return job.upload
    folder = job.settings.models / document.model
    if not document.model or not folder.is_dir():
        raise InvalidRequest(f"model: there is no published model {document.model!r}")
    if document.version is None:
        return folder
    if not (folder / str(document.version)).is_dir():
        raise InvalidRequest(f"version: model {document.model!r} has no version {document.version}")
    return folder / str(document.version)


def _run(job: Job, arguments: Sequence[str]) -> tuple[int, str]:
    """Run `millrace`; its status, and the end of what it said."""
    command = [sys.executable, "-P", "-m", "millrace", *arguments]
    program = subprocess.Popen(  # noqa: S603  # a program of ours
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    job.programs.append(program)
    said, _ = program.communicate()
    text = str(said, "utf-8", "replace").strip()
    for line in text.splitlines()[-20:]:
        job.log(line)
    return program.returncode, text[-_SAID:]


def _pack(folder: Path, path: Path) -> None:
    """A zip of the folder's files, the same for the same files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                name = zipfile.ZipInfo(str(each.relative_to(folder)))  # whose time is always the same
                packed.writestr(name, each.read_bytes(), zipfile.ZIP_DEFLATED)
