"""The model card: what a published version is, in a README.md beside its manifest, written from the manifest alone.

After Mitchell et al., "Model cards for model reporting", 2019: what it does, what it was trained on, how good it is and
what it is not good for.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from millrace.artifacts import manifest as manifest_file
from millrace.artifacts.manifest import Manifest

FILE_NAME = "README.md"


def write(folder: Path, manifest: Manifest) -> None:
    """Write the card of what is in a version's folder: sizes and plots are those of the files that are there."""
    own = (FILE_NAME, manifest_file.FILE_NAME)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in own)
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    (folder / FILE_NAME).write_text(card(manifest, sizes), encoding="utf-8")


def card(manifest: Manifest, sizes: Mapping[str, int]) -> str:
    """The card as Markdown; `sizes` are the bytes of each file beside it, by path."""
    pictures = [name for name in sizes if name.endswith(".png")]
    files = {name: size for name, size in sizes.items() if name not in pictures}
    sections = {
        "Scores": _table(
            ("score", "value"), [(_words(name), f"{score:.4f}") for name, score in manifest.scores.items()]
        ),
        "Limits": [f"- {limit}" for limit in manifest.limits],
        "Data": _table(("file", "SHA-256"), [(f"`{name}`", f"`{digest}`") for name, digest in manifest.data.items()]),
        "Licences of the data": [f"- {name}: {licence}" for name, licence in manifest.licences.items()],
        "Inputs and outputs": list(_signatures(manifest)),
        "Files": _table(("file", "bytes"), [(f"`{name}`", f"{size:,}") for name, size in files.items()]),
        "Formats compared with the trained model": _parity(manifest),
        "Formats left out": [f"- {name}: {reason}" for name, reason in manifest.left_out.items()],
        "Hyper-parameters": _table(
            ("name", "value"), [(f"`{key}`", f"{value}") for key, value in manifest.training.items()]
        ),
        "Plots": [f"![{_words(Path(name).stem)}]({name})" for name in pictures],
    }
    lines = [f"# {manifest.name}, version {manifest.version}", "", f"{manifest.description}."]
    for title, content in sections.items():
        if content:
            lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


def _words(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _signatures(manifest: Manifest) -> Iterator[str]:
    for name, signature in manifest.signatures.items():
        for side, specs in (("takes", signature.inputs), ("gives", signature.outputs)):
            for spec in specs:
                yield f"- `{name}` {side} `{spec.name}`: {spec.datatype} {list(spec.shape)}"
    if manifest.labels:
        yield f"- labels, in the order of the columns: {', '.join(manifest.labels)}"


def _parity(manifest: Manifest) -> list[str]:
    rows = [
        (
            name,
            f"{found.max_abs_difference:.1e}",
            "" if found.top1_agreement is None else f"{found.top1_agreement:.4f}",
            str(found.examples),
        )
        for name, found in manifest.parity.items()
    ]
    return _table(("format", "largest difference", "same answer", "examples"), rows)
