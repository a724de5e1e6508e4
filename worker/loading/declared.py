"""What a manifest and `config.pbtxt` declare, held against the model's file."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from millrace.artifacts.configs import CONFIG_PBTXT, TensorConfig, TritonConfig
from millrace.artifacts.manifest import Batching, DecodeImage, Manifest, Tokenize
from millrace.protocol.tensors import DEFAULT_SIGNATURE, DTYPES, Signature, TensorSpec
from worker import backends
from worker.backends.base import Backend, Device, LoadError, SelfDescribed
from worker.backends.texts import place, public
from worker.loading import placement
from worker.loading.first_runs import FirstRuns
from worker.loading.presented import made_by

_MOST_BATCH_BYTES = 2**34


def check_files(folder: Path, manifest: Manifest) -> None:
    """Whether every model file was there when the version was published."""
    for file, _, _ in backends.FORMATS.values():
        if manifest.files and (folder / file).is_file() and file not in manifest.files:
            raise LoadError(
                f"{place(folder, file)} was added after the version was published: the manifest does not list it"
            )


def check_signatures(manifest: Manifest, runtime: Backend) -> None:
    """Whether the graph takes what the manifest lets callers send, and has what it promises."""
    steps = manifest.preprocessing
    replaced = {step.input for step in steps if not isinstance(step, DecodeImage)}
    replaced |= {step.pair for step in steps if isinstance(step, Tokenize)}
    made = {made for step in manifest.preprocessing for made in made_by(step)}
    renamed = {step.output for step in manifest.postprocessing}
    for name, signature in manifest.signatures.items():
        graph = runtime.signatures.get(name, Signature(inputs=(), outputs=()))
        for what, specs, actual, changed in (
            ("input", signature.inputs, graph.inputs, replaced),
            ("output", signature.outputs, graph.outputs, renamed),
        ):
            by_name = {spec.name: spec for spec in actual}
            for spec in specs:
                where = f"the manifest's signature {name!r} has an {what} {spec.name!r}"
                found = by_name.get(spec.name)
                if found is None and not (what == "input" and spec.name in changed):
                    raise LoadError(f"{where} that the model's file lacks")
                if found and spec.name not in changed and not _fits(spec, found):
                    raise LoadError(
                        f"{where} that is {spec.datatype} {list(spec.shape)}, but {found.datatype} "
                        f"{list(found.shape)} in the model's file"
                    )
        known = made.union(spec.name for spec in signature.inputs)
        if unknown := [spec.name for spec in graph.inputs if spec.name not in known and not spec.optional]:
            raise LoadError(f"the manifest's signature {name!r} lacks the input {unknown[0]!r} of the model's file")


def _fits(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether there are tensors that fit both."""
    if one.unknown_rank or other.unknown_rank:
        return one.datatype == other.datatype
    pairs = itertools.zip_longest(one.shape, other.shape)
    return one.datatype == other.datatype and all(a == b or (-1 in (a, b) and None not in (a, b)) for a, b in pairs)


@dataclass(frozen=True, slots=True)
class Grouping:
    """How requests are grouped before anything was run, and who says so.

    `is_told`: the owner's word is that rows are independent. `is_sized`: the batch size is the owner's. `reason` says
    why requests are not batched, "" where they may be. `by_row`: rows that must not run together run one by one.
    """

    batching: Batching
    is_told: bool = False
    is_sized: bool = False
    reason: str = ""
    by_row: bool = False

    def after(self, shown: FirstRuns) -> Batching:
        """What the first runs leave of it."""
        largest = self.batching.max_batch_size
        if shown.not_batched:
            largest = 1 if self.by_row else 0
        elif largest and not self.is_sized and shown.lacked:
            largest = max(1, shown.rows)
        return msgspec.structs.replace(self.batching, max_batch_size=largest)

    def notes(self, shown: FirstRuns) -> Iterator[str]:
        """Why requests are batched less than they might be."""
        if why := self.reason or shown.not_batched:
            yield f"{'Rows run one by one' if self.by_row else 'Requests are not batched'}: {why}."
        elif shown.lacked and not self.is_sized:
            yield f"Batches have at most {max(1, shown.rows)} rows: larger ones {shown.lacked}."


def grouping(runtime: Backend, manifest: Manifest | None, config: TritonConfig, max_batch_size: int) -> Grouping:
    """As the model itself says, or the manifest, or `config.pbtxt`; else in rows where all tensors may have them."""
    if isinstance(runtime, SelfDescribed):
        return Grouping(runtime.batching, is_told=True, is_sized=True)
    if manifest and manifest.batching:
        batching = manifest.batching
        is_told = batching.rows_are_independent or batching.max_batch_size == 1
        return Grouping(batching, is_told=is_told, is_sized=True, by_row=bool(batching.max_batch_size))
    fixed = _without_rows(runtime)
    delay_ms = config.max_queue_delay_ms or 0.0
    if config.max_batch_size is None:
        largest = 0 if fixed else max_batch_size
        return Grouping(Batching(max_batch_size=largest, max_queue_delay_ms=delay_ms), reason=fixed)
    if config.max_batch_size and fixed:
        raise LoadError(f"{CONFIG_PBTXT} sets max_batch_size to {config.max_batch_size}, but {fixed}")
    _check_size(runtime, config.max_batch_size)
    reason = "" if config.max_batch_size else f"{CONFIG_PBTXT} says so"
    batching = Batching(max_batch_size=config.max_batch_size, max_queue_delay_ms=delay_ms)
    return Grouping(batching, is_told=True, is_sized=True, reason=reason)


def _check_size(runtime: Backend, rows: int) -> None:
    """Raises `LoadError` for batches that no machine holds: the number must be a mistake."""
    specs = [spec for signature in runtime.signatures.values() for spec in signature.inputs]
    size = max(
        (math.prod(1 if n < 0 else n for n in spec.shape[1:]) * DTYPES[spec.datatype].itemsize for spec in specs),
        default=0,
    )
    if rows * size > _MOST_BATCH_BYTES:
        raise LoadError(f"a batch of {rows} rows has an input of {rows * size} bytes; max_batch_size must be lower")


def _without_rows(runtime: Backend) -> str:
    """Why the first dimension does not count rows, "" where it may."""
    for signature in runtime.signatures.values():
        for what, specs in (("input", signature.inputs), ("output", signature.outputs)):
            if not specs:
                return f"it has no {what}s"
            for spec in specs:
                if spec.unknown_rank:
                    return f"{spec.name!r} has no known rank"
                if not spec.shape:
                    return f"{spec.name!r} has no dimension to count rows"
                if spec.shape[0] >= 0:
                    return f"the first dimension of {spec.name!r} is not free to count rows"
    return ""


def narrowed(
    graph: Signature, name: str, manifest: Manifest | None, config: TritonConfig, *, has_rows: bool
) -> Signature:
    """The graph's signature with the sizes that the manifest or `config.pbtxt` know beyond the file."""
    shapes: dict[str, tuple[int, ...]] = {}
    if manifest and name in manifest.signatures:
        shapes = {spec.name: spec.shape for spec in manifest.signatures[name].inputs}
    elif not manifest:
        shapes = {tensor.name: (-1, *tensor.dims) if has_rows else tensor.dims for tensor in config.inputs}
    return msgspec.structs.replace(graph, inputs=tuple(_narrowed(spec, shapes.get(spec.name)) for spec in graph.inputs))


def _narrowed(spec: TensorSpec, shape: tuple[int, ...] | None) -> TensorSpec:
    if shape is None or (len(shape) != len(spec.shape) and not spec.unknown_rank):
        return spec
    sizes = [known if own < 0 else own for own, known in zip(spec.shape, shape, strict=True)] if spec.shape else shape
    return msgspec.structs.replace(spec, shape=tuple(sizes), unknown_rank=False)


def check_config(config: TritonConfig, signatures: dict[str, Signature], batching: Batching) -> None:
    """Whether the model has the tensors that `config.pbtxt` declares."""
    signature = signatures.get(DEFAULT_SIGNATURE) or next(iter(signatures.values()))
    for what, declared, specs in (
        ("input", config.inputs, signature.inputs),
        ("output", config.outputs, signature.outputs),
    ):
        by_name = {spec.name: spec for spec in specs}
        for tensor in declared:
            if tensor.name not in by_name:
                names = ", ".join(sorted(by_name))
                raise LoadError(f"unexpected inference {what} '{tensor.name}' in {CONFIG_PBTXT}; the model has {names}")
            has_rows = bool(batching.max_batch_size)
            if config.max_batch_size is None and len(tensor.dims) == len(by_name[tensor.name].shape):
                has_rows = False  # without max_batch_size, all of the file's dimensions may be there
            _check_tensor(what, tensor, by_name[tensor.name], has_rows=has_rows)


def _check_tensor(what: str, tensor: TensorConfig, spec: TensorSpec, *, has_rows: bool) -> None:
    dims = (-1, *tensor.dims) if has_rows else tensor.dims
    if not _fits(TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=dims), spec):
        raise LoadError(
            f"{CONFIG_PBTXT} declares {what} '{tensor.name}' as {tensor.datatype} {list(dims)}, but the model has "
            f"{spec.datatype} {list(spec.shape)}"
        )


def ignored(config: TritonConfig, manifest: Manifest | None, device: Device, runtime: Backend) -> tuple[str, ...]:
    """What `config.pbtxt` says that has no effect."""
    fields = list(config.ignored)
    if manifest and manifest.batching and (config.max_batch_size is not None or config.max_queue_delay_ms is not None):
        fields.append("batching: the manifest says how requests are grouped")
    if isinstance(runtime, SelfDescribed):
        batched = config.max_batch_size is not None or config.max_queue_delay_ms is not None
        fields += ["batching: the model's code says how its rows run"] if batched else []
        fields += ["instance_group: the model's code says how many calls it stands"] if config.instances else []
    elif config.instances and not {device.kind, "auto"} & config.instances.keys():
        fields.append(f"instance_group: it is for another kind of device than {device.kind}")
    elif others := placement.left_out(config, device):
        fields.append(f"instance_group.gpus {', '.join(map(str, others))}: this worker runs models on {device.name}")
    return tuple(fields)


def instances(config: TritonConfig, device: Device, runtime: Backend) -> int | None:
    """How many threads are to serve the model, where anything says so."""
    if isinstance(runtime, SelfDescribed):
        return runtime.instances
    if gpus := placement.gpus(config, device):
        return len(gpus)
    return config.instances.get(device.kind) or config.instances.get("auto")


def labels(folder: Path, config: TritonConfig) -> tuple[str, ...]:
    """The names of classes, one a line in the file beside `config.pbtxt` that it names."""
    if not config.labels_file:
        return ()
    path = folder / config.labels_file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise LoadError(f"label_filename must be a file beside {CONFIG_PBTXT}, got {config.labels_file!r}")
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{config.labels_file}: {public(str(error), folder)}") from error
