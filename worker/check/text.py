"""A report as people read it."""

from collections.abc import Iterator

from millrace.protocol.tensors import Signature, TensorSpec
from worker.check.report import Report


def lines(report: Report) -> Iterator[str]:
    """The report, line by line."""
    what = f"{report.model}, version {report.version}" if report.version >= 0 else report.model
    announced = report.announcement
    if announced is None:
        yield f"{what} cannot be served: {report.error}"
        return
    yield f"{what} ({report.folder}) will be served"
    if announced.description:
        yield f"  {announced.description}"
    yield f"  loaded by {announced.platform} in {report.load_s:.1f} s, {report.memory_mb:.0f} MB with its runtime"
    for name, signature in announced.signatures.items():
        yield from _signature(name, signature)
    if announced.labels:
        shown = ", ".join(announced.labels[:5])
        yield f"  labels: {shown}{', …' if len(announced.labels) > 5 else ''} ({len(announced.labels)})"
    yield f"  {report.batching}"
    yield from (f"  note: {note}" for note in announced.notes if note != report.batching)
    yield from _runs(report)
    for example in report.examples:
        yield ""
        yield f"# {example.protocol}{'' if example.kind == 'shell' else ', Python'}"
        yield example.text
    yield from (f"\n# no example for {sentence}" for sentence in report.unsaid)
    if report.untried:
        yield f"\n# these requests show the form; {report.untried}"


def _signature(name: str, signature: Signature) -> Iterator[str]:
    yield f"  signature {name}"
    for what, specs in (("takes", signature.inputs), ("gives", signature.outputs)):
        yield from (f"    {what} {_spec(spec)}" for spec in specs)


def _spec(spec: TensorSpec) -> str:
    shape = "of any rank" if spec.unknown_rank else str(list(spec.shape))
    media = f", or an {spec.media}'s file" if spec.media else ""
    return f"{spec.name}: {spec.datatype} {shape}{media}{', may be left out' if spec.optional else ''}"


def _runs(report: Report) -> Iterator[str]:
    if not report.runs:
        return
    is_batched = bool(report.announcement and report.announcement.max_batch_size)
    yield f"  {'rows' if is_batched else 'request':>7}  {'ms':>9}  {'ms a row':>9}  {'MB':>7}"
    for runs in report.runs:
        memory = f"{runs.memory_mb:.0f}" if runs.memory_mb else "?"
        yield f"  {runs.rows:>7}  {runs.ms:>9.3f}  {runs.ms / runs.rows:>9.3f}  {memory:>7}"
