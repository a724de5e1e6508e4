"""The published models as files for phones and web pages, which a release carries.

    python -m training assets --out build/models

Each model's ONNX file is the published one, byte for byte. Every other format is made from the same weights, runs
beside that ONNX file on the same examples, and is left out where it answers otherwise; with 32-bit weights that is an
error, and nothing is written. Core ML runs on macOS only: its package is made from the ONNX file node by node, with its
weights as they are. It needs no data folder and no network.

    NAME-VERSION.onnx, .tflite, .float16.tflite, ..., .mlpackage.zip
    NAME-VERSION.card.md, .manifest.json, .vocabulary.txt
    MODELS.md, MODELS.json, MODELS.SHA256SUMS      what is in each file, how it compares, and the hashes
"""

import argparse
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import onnx

from millrace.artifacts import manifest
from millrace.artifacts.manifest import Manifest
from millrace.artifacts.repository import ModelRepository
from training import cards, console, parity
from training.export import exporting
from training.export.formats import FORMATS
from training.export.model import ExportError, Trained
from training.export.packaged_data import with_packaged_data
from training.export.report import Report, Row
from training.export.source import Source

PROG = "millrace train assets"
MADE = tuple(name for name in FORMATS if name not in ("savedmodel", "onnx"))
TABLE, INDEX, SUMS = "MODELS.md", "MODELS.json", "MODELS.SHA256SUMS"
_BESIDE = ("vocabulary.txt", "detector.npz")  # what steps of the manifest read

_HEAD = """# Millrace's models as files

Each model is here in several formats, all with the same weights. `docs/howto/mobile.md` has programs that run them.
`NAME-VERSION.manifest.json` says what goes in and what comes out, and which steps prepare a text or an image. The card
says how good a model is, and what it is not good for. `sha256sum --check MODELS.SHA256SUMS` checks the files.

The differences are those from the ONNX file's answers, on the examples that the last column names. An `.mlpackage` is
made from the ONNX file's weights, node by node; its answers can be compared on macOS only.
"""


class Asset(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of a model. `max_abs_difference` is that from the ONNX file's answers; see `note` where there is none.

    `same_answers` is the part of the answers that are the ONNX file's, `score` the part of right answers, both on
    `compared_on`.
    """

    file: str
    model: str
    version: int
    format: str
    bytes: int
    sha256: str
    max_abs_difference: float | None = None
    same_answers: float | None = None
    score: float | None = None
    compared_on: str = ""
    note: str = ""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 when an error was printed."""
    arguments = _parser().parse_args(argv)
    return console.run(lambda: _answered(arguments))


def _answered(arguments: argparse.Namespace) -> int:
    out: Path = arguments.out
    try:
        if out.exists() and not arguments.replace:
            raise ExportError(f"{out} exists; choose another --out, or --replace it")
        with exporting.placed(out) as folder:
            write(arguments.models, arguments.names, folder, arguments.formats)
    except (ExportError, manifest.ManifestError, OSError) as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    print(f"wrote {out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="MODEL", help="the models [all that are published]")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where published models are [models]")
    parser.add_argument("--out", type=Path, default=Path("build/models"), help="the folder to write [%(default)s]")
    parser.add_argument("--replace", action="store_true", help="write it even where it exists")
    parser.add_argument(
        "--formats", type=lambda text: text.split(","), default=MADE, help=f"beside ONNX [{','.join(MADE)}]"
    )
    return parser


def write(models: Path, names: Sequence[str], folder: Path, formats: Sequence[str] = MADE) -> list[Asset]:
    """Write the newest version of each model into the folder, which has to be there and empty.

    Without names, of every model. Raises `ExportError` for a model that is not there or has no ONNX file, and for a
    format of 32-bit weights that cannot be had.
    """
    assets = [
        asset
        for name in names or sorted(ModelRepository(models).models())
        for asset in _written(Source(model=name, models=models), formats, folder)
    ]
    (folder / TABLE).write_text(_table(assets), encoding="utf-8")
    (folder / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(assets), indent=2) + b"\n")
    sums = manifest.file_hashes(folder)
    (folder / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))
    return assets


def _written(source: Source, formats: Sequence[str], folder: Path) -> list[Asset]:
    version = source.folder()
    trained = source.open()
    if version is None or not (version / "model.onnx").is_file():
        raise ExportError(f"{source.model} has no model.onnx, which its other formats are compared with")
    description = trained.description
    stem = folder / f"{description.name}-{description.version}"
    for file in (manifest.FILE_NAME, *_BESIDE):
        if (version / file).is_file():
            shutil.copyfile(version / file, f"{stem}.{file}")
    published = Path(shutil.copyfile(version / "model.onnx", f"{stem}.onnx"))
    onnx_row = Row(format="onnx", title="ONNX", file="model.onnx", note="the published file")
    assets = [_asset(published, description, onnx_row)]
    with tempfile.TemporaryDirectory() as scratch:
        found = exporting.tried(_judged_by(trained, published), formats, Path(scratch), is_timed=False)
        _check_exact(found)
        for row in found.rows[1:]:
            if row.is_published:
                path = _taken(Path(scratch) / row.file, Path(f"{stem}{row.file.removeprefix('model')}"))
                assets.append(_asset(path, description, row, found.compared_on))
    described = msgspec.structs.replace(
        description, parity=exporting.parities(found), left_out=exporting.left_out(found)
    )
    sizes = {asset.file: asset.bytes for asset in assets}
    Path(f"{stem}.card.md").write_text(cards.card(described, sizes), encoding="utf-8")
    return assets


def _check_exact(found: Report) -> None:
    """Raises `ExportError` where a format of 32-bit weights is missing: then something is wrong with the export."""
    missed = [row.missed for row in found.rows[1:] if not row.is_published and FORMATS[row.format].exact]
    if missed:
        raise ExportError(f"{found.model}: {'; '.join(missed)}")


def _judged_by(trained: Trained, published: Path) -> Trained:
    """The same with its published ONNX file in the trained model's place, which the other formats are judged by."""
    exports = replace(trained.exports, onnx_model=lambda: onnx.load(published))
    return with_packaged_data(replace(trained, exports=exports, answer=parity.onnx(published)))


def _taken(written: Path, path: Path) -> Path:
    """Move the file there; a folder, such as Core ML's package, becomes a zip archive that holds it by its new name."""
    if written.is_file():
        return Path(shutil.move(written, path))
    archive = path.with_name(f"{path.name}.zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for part in sorted(part for part in written.rglob("*") if part.is_file()):
            name = f"{path.name}/{part.relative_to(written).as_posix()}"
            member = zipfile.ZipInfo(name)  # whose time is always the same
            zipped.writestr(member, part.read_bytes(), zipfile.ZIP_DEFLATED)
    return archive


def _asset(path: Path, description: Manifest, row: Row, compared_on: str = "") -> Asset:
    return Asset(
        file=path.name,
        model=description.name,
        version=description.version,
        format=row.format,
        bytes=path.stat().st_size,
        sha256=manifest.file_hash(path),
        max_abs_difference=row.max_abs_difference,
        same_answers=row.top1_agreement,
        score=row.score,
        compared_on="" if row.note else compared_on,
        note=row.note,
    )


def _table(assets: Sequence[Asset]) -> str:
    lines = [
        _HEAD,
        "| file | format | bytes | largest difference | same answers | right answers | on |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for asset in assets:
        known = (
            "" if asset.max_abs_difference is None else f"{asset.max_abs_difference:.1e}",
            "" if asset.same_answers is None else f"{asset.same_answers:.2%}",
            "" if asset.score is None else f"{asset.score:.2%}",
            asset.note or asset.compared_on,
        )
        lines.append(f"| `{asset.file}` | {asset.format} | {asset.bytes:,} | {' | '.join(known)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
