"""What a manifest and `config.pbtxt` declare, held against the model's file."""

import itertools
from pathlib import Path

from millrace.artifacts.configs import CONFIG_PBTXT, TensorConfig, TritonConfig
from millrace.artifacts.manifest import Batching, DecodeImage, LookUpWords, Manifest, Tokenize
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from worker import backends
from worker.backends.base import Backend, Device, LoadError, SelfDescribed
from worker.backends.texts import place, public


def check_files(folder: Path, manifest: Manifest) -> None:
    """Whether every model file was there when the version was published."""
    for file, _, _ in backends.FORMATS.values():
        if manifest.files and (folder / file).exists() and file not in manifest.files:
            raise LoadError(
                f"{place(folder, file)} was added after the version was published: the manifest does not list it"
            )


def check_signatures(manifest: Manifest, runtime: Backend) -> None:
    """Whether the graph takes what the manifest lets callers send, and has what it promises."""
    replaced = {step.input for step in manifest.preprocessing if not isinstance(step, DecodeImage)}
    made = {made for step in manifest.preprocessing for made in _made_by(step)}
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


def _made_by(step: DecodeImage | Tokenize | LookUpWords) -> tuple[str, ...]:
    """The graph's inputs that a step makes."""
    match step:
        case DecodeImage():
            return (step.input,)
        case Tokenize():
            return (step.output,)
        case LookUpWords():
            return (step.output, step.weights)


def _fits(one: TensorSpec, other: TensorSpec) -> bool:
    """Whether there are tensors that fit both."""
    pairs = itertools.zip_longest(one.shape, other.shape)
    return one.datatype == other.datatype and all(a == b or (-1 in (a, b) and None not in (a, b)) for a, b in pairs)


def batching(runtime: Backend, config: TritonConfig, max_batch_size: int) -> Batching:
    """How requests are grouped without a manifest: not at all where the first dimension of any tensor is not free."""
    specs = [spec for s in runtime.signatures.values() for spec in (*s.inputs, *s.outputs)]
    fixed = [spec.name for spec in specs if spec.shape[:1] != (-1,)]
    if config.max_batch_size and fixed:
        raise LoadError(
            f"{CONFIG_PBTXT} sets max_batch_size to {config.max_batch_size}, but the first dimension of {fixed[0]!r} "
            "is not free to count rows"
        )
    if config.max_batch_size is not None:
        max_batch_size = config.max_batch_size
    return Batching(max_batch_size=0 if fixed else max_batch_size, max_queue_delay_ms=config.max_queue_delay_ms or 0.0)


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
            _check_tensor(what, tensor, by_name[tensor.name], batching)


def _check_tensor(what: str, tensor: TensorConfig, spec: TensorSpec, batching: Batching) -> None:
    dims = (-1, *tensor.dims) if batching.max_batch_size else tensor.dims
    if not _fits(TensorSpec(name=tensor.name, datatype=tensor.datatype, shape=dims), spec):
        raise LoadError(
            f"{CONFIG_PBTXT} declares {what} '{tensor.name}' as {tensor.datatype} {list(dims)}, but the model has "
            f"{spec.datatype} {list(spec.shape)}"
        )


def ignored(config: TritonConfig, manifest: Manifest | None, device: Device, runtime: Backend) -> tuple[str, ...]:
    """What `config.pbtxt` says that has no effect."""
    fields = list(config.ignored)
    if manifest and (config.max_batch_size is not None or config.max_queue_delay_ms is not None):
        fields.append("batching: the manifest says how requests are grouped")
    if isinstance(runtime, SelfDescribed):
        batched = config.max_batch_size is not None or config.max_queue_delay_ms is not None
        fields += ["batching: the model's code says how its rows run"] if batched else []
        fields += ["instance_group: the model's code says how many calls it stands"] if config.instances else []
    elif config.instances and not {device.kind, "auto"} & config.instances.keys():
        fields.append(f"instance_group: it is for another kind of device than {device.kind}")
    return tuple(fields)


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
