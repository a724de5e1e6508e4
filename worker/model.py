"""A model version as a worker holds it: its manifest, its backend and the steps around it."""

import itertools
import logging
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from millrace.artifacts import manifest as manifests
from millrace.artifacts.configs import CONFIG_PBTXT, TensorConfig, TritonConfig
from millrace.artifacts.manifest import Batching, DecodeImage, LookUpWords, Manifest, ManifestError, Tokenize
from millrace.protocol.errors import MillraceError, ModelFailed
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import BYTES, DEFAULT_SIGNATURE, DTYPES, Signature, TensorSpec
from worker import backends, preprocess
from worker.backends.base import Arrays, Backend, Device, LoadError
from worker.batcher import Cost
from worker.preprocess import Preparation

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_MEASURED_LENGTH, _MEASURED_ROWS, _MEASURED_RUNS = 64, 8, 5
_LARGEST_INPUT_BYTES = 2**30
_SEND_MS = 0.05  # one more reply block: written, sent and read by the API


class Model:
    """A loaded version. `run` may be called from several threads.

    `cost` is what a run takes by its rows' length, where that may differ; measured at warm-up. `instances` is how many
    threads are to serve it, where its configuration says so.
    """

    def __init__(
        self,
        announcement: ModelAnnouncement,
        batching: Batching,
        backend: Backend,
        preparation: Preparation,
        *,
        instances: int | None = None,
    ) -> None:
        self.announcement = announcement
        self.instances = instances
        self.batching = batching
        self.preparation = preparation
        self.cost = Cost()
        self._backend = backend

    @property
    def fault(self) -> str:
        """Why it cannot answer at present, "" where it can."""
        return self._backend.fault

    def run(self, signature: str, inputs: Arrays, rows: int) -> Arrays:
        """The caller's outputs for the graph's inputs, each with `rows` rows.

        Without batching (`max_batch_size` 0), `rows` is 1, and what goes in and comes out carries one dimension of 1
        more than the graph's tensors. Raises `ModelFailed` for an answer that does not fit; what the backend raises
        passes through.
        """
        batches = self.batching.max_batch_size > 0
        if not batches:
            inputs = {name: array.reshape(array.shape[1:]) for name, array in inputs.items()}
        outputs = self._backend.run(signature, inputs)
        if not batches:
            outputs = {name: np.asarray(array)[np.newaxis] for name, array in outputs.items()}
        outputs = self.preparation.after({spec.name: outputs[spec.name] for spec in self._outputs(signature)})
        for name, array in outputs.items():
            if array.shape[:1] != (rows,):
                raise ModelFailed(f"output '{name}' has shape {list(array.shape)} for a batch of {rows} rows")
        return outputs

    def failure(self, error: BaseException) -> MillraceError:
        """What a caller is told of an error that its request led to."""
        if isinstance(error, MillraceError):
            return error
        first_line = str(error).strip().partition("\n")[0][:300]
        return ModelFailed(f"model '{self.announcement.name}' failed: {type(error).__name__}: {first_line}")

    def close(self) -> None:
        """Give back what it holds; nothing runs any more."""
        self._backend.close()

    def warm_up(self) -> None:
        """Run what is announced on zeros, at one row and at the largest batch, so that no caller waits for it.

        A signature that takes serialized examples may refuse empty strings.
        """
        for name, signature in self._served():
            try:
                self._run_on_zeros(name, signature)
            except Exception as error:  # whatever the runtime raises
                if not signature.examples_input:
                    raise
                _log.info(
                    "a signature that takes examples was not warmed up",
                    extra={"model": self.announcement.name, "signature": name, "reason": str(error)},
                )
        if self.preparation.pads:
            self.cost = self._measured_cost()

    def _served(self) -> list[tuple[str, Signature]]:
        """The graph's form of the announced signatures; a manifest may leave some of the file's out."""
        return [(name, self._backend.signatures[name]) for name in self.announcement.signatures]

    def _run_on_zeros(self, name: str, signature: Signature) -> None:
        sizes = (1, self.batching.max_batch_size) if self.batching.max_batch_size else (0,)
        for rows in sizes:
            _check_size(signature, rows)
            self._backend.run(name, {spec.name: _filled(spec, rows) for spec in signature.inputs})

    def _measured_cost(self) -> Cost:
        """The cost that three sizes of batch show, with what it takes to answer one more batch."""
        long = min(_MEASURED_LENGTH, self.preparation.max_length)
        rows = min(_MEASURED_ROWS, self.batching.max_batch_size)
        if long < 2 or rows < 2:
            return Cost()
        short_ms, long_ms, wide_ms = (self._took_ms(1, 1), self._took_ms(1, long), self._took_ms(rows, long))
        element = max(0.0, wide_ms - long_ms) / ((rows - 1) * long)
        step = max(0.0, (long_ms - short_ms) / (long - 1) - element)
        return Cost(batch=max(0.0, short_ms - step - element) + _SEND_MS, step=step, element=element)

    def _took_ms(self, rows: int, length: int) -> float:
        """The time of a run, the shortest of a few: what else the machine does is no part of it."""
        name, signature = self._served()[0]
        inputs = {spec.name: self._sample(spec, rows, length) for spec in signature.inputs}
        times = []
        for _ in range(_MEASURED_RUNS):
            started = time.perf_counter()
            self._backend.run(name, inputs)
            times.append((time.perf_counter() - started) * 1000)
        return min(times)

    def _sample(self, spec: TensorSpec, rows: int, length: int) -> npt.NDArray[Any]:
        pads = self.preparation.may_pad(spec.name)
        return _filled(spec, rows, length if pads else 1, value=self.preparation.filler(spec.name))

    def _outputs(self, signature: str) -> Sequence[TensorSpec]:
        return self.announcement.signatures[signature].outputs


def load(
    folder: Path,
    name: str,
    version: int,
    *,
    device: Device,
    backend: str,
    max_batch_size: int,
    config: TritonConfig | None = None,
) -> Model:
    """The version in the folder, warmed up. Raises `LoadError`.

    A manifest says how requests are grouped, else the `config.pbtxt` of its model; without both, up to `max_batch_size`
    rows where every tensor's first dimension is free, else not at all.
    """
    config = config or TritonConfig()
    if not _NAME.fullmatch(name):
        raise LoadError(f"{name!r} cannot be a model's name: letters, digits, '.', '_' and '-' can be used")
    try:
        manifest = manifests.read(folder)
        if manifest:
            manifests.verify(folder, manifest)
            _check_files(folder, manifest)
        preparation = preprocess.load(folder, manifest)
    except (ManifestError, OSError) as error:
        raise LoadError(str(error)) from error
    runtime = backends.load(folder, device, config.format or backend)
    signatures = manifest.signatures if manifest else dict(runtime.signatures)
    if manifest:
        _check_signatures(manifest, runtime)
    batching = manifest.batching if manifest else _batching(runtime, config, max_batch_size)
    _check_config(config, signatures, batching)
    ignored = _ignored(config, manifest, device)
    if ignored:
        _log.warning("config.pbtxt asks for what is not done", extra={"model": name, "fields": ignored})
    announcement = ModelAnnouncement(
        name=name,
        version=version,
        state="AVAILABLE",
        platform=runtime.platform,
        description=_description(manifest, ignored),
        signatures=signatures,
        labels=manifest.labels if manifest and manifest.labels else _labels(folder.parent, config),
        max_batch_size=batching.max_batch_size,
    )
    instances = config.instances.get(device.kind) or config.instances.get("auto")
    model = Model(announcement, batching, runtime, preparation, instances=instances)
    try:
        model.warm_up()
    except Exception as error:  # whatever the runtime raises
        can_retry = getattr(error, "can_retry", False)
        raise LoadError(f"{folder}: the model loads but fails on zeros: {error}", can_retry=can_retry) from error
    return model


def _check_files(folder: Path, manifest: Manifest) -> None:
    """Whether every model file was there when the version was published."""
    for file, _, _ in backends.FORMATS.values():
        if manifest.files and (folder / file).exists() and file not in manifest.files:
            raise LoadError(f"{folder / file} was added after the version was published: the manifest does not list it")


def _check_signatures(manifest: Manifest, runtime: Backend) -> None:
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


def _batching(runtime: Backend, config: TritonConfig, max_batch_size: int) -> Batching:
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


def _check_config(config: TritonConfig, signatures: dict[str, Signature], batching: Batching) -> None:
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


def _ignored(config: TritonConfig, manifest: Manifest | None, device: Device) -> tuple[str, ...]:
    """What `config.pbtxt` says that has no effect."""
    ignored = list(config.ignored)
    if manifest and (config.max_batch_size is not None or config.max_queue_delay_ms is not None):
        ignored.append("batching: the manifest says how requests are grouped")
    if config.instances and not {device.kind, "auto"} & config.instances.keys():
        ignored.append(f"instance_group: it is for another kind of device than {device.kind}")
    return tuple(ignored)


def _description(manifest: Manifest | None, ignored: Sequence[str]) -> str:
    parts = [manifest.description] if manifest and manifest.description else []
    if ignored:
        parts.append(f"{CONFIG_PBTXT} asks for what is not done: {'; '.join(ignored)}.")
    return " ".join(parts)


def _labels(folder: Path, config: TritonConfig) -> tuple[str, ...]:
    """The names of classes, one a line in the file beside `config.pbtxt` that it names."""
    if not config.labels_file:
        return ()
    path = folder / config.labels_file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise LoadError(f"label_filename must be a file beside {CONFIG_PBTXT}, got {config.labels_file!r}")
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path}: {error}") from error


def _check_size(signature: Signature, rows: int) -> None:
    """Raises `ValueError` for a batch that a worker had better not try to hold."""
    size = max((math.prod(_shape(spec, rows)) * DTYPES[spec.datatype].itemsize for spec in signature.inputs), default=0)
    if size > _LARGEST_INPUT_BYTES:
        raise ValueError(f"a batch of {rows} rows has an input of {size} bytes; max_batch_size must be lower")


def _shape(spec: TensorSpec, rows: int) -> tuple[int, ...]:
    """What the smallest tensor of so many rows has; `rows` 0 is a model without batches."""
    shape = tuple(1 if size < 0 else size for size in spec.shape)
    return (rows, *shape[1:]) if rows else shape


def _filled(spec: TensorSpec, rows: int, length: int = 1, *, value: int = 0) -> npt.NDArray[Any]:
    """A tensor of one value, its last axis `length` long where that is free; `rows` 0 is a model without batches."""
    shape = _shape(spec, rows)
    if len(shape) > 1 and spec.shape[-1] < 0:
        shape = (*shape[:-1], length)
    if spec.datatype == BYTES:
        return np.full(shape, b"", object)
    return np.full(shape, value, DTYPES[spec.datatype])
