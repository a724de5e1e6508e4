"""A model version as a worker holds it: its manifest, its backend and the steps around it."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from millrace.artifacts import manifest as manifests
from millrace.artifacts.configs import CONFIG_PBTXT, TritonConfig
from millrace.artifacts.manifest import Batching, ManifestError
from millrace.model import Models
from millrace.protocol.errors import MillraceError, ModelFailed
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import TensorSpec
from worker import backends, declared, preprocess, trial, warmup
from worker.backends.base import Arrays, Backend, Device, LoadError, RowErrors, SelfDescribed, ends_the_program
from worker.backends.texts import place, public
from worker.batcher import Cost
from worker.preprocess import Preparation
from worker.trial import Evidence

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class Model:
    """A loaded version. `run` may be called from several threads.

    `cost` is what a run takes by its rows' length, where that may differ; measured at warm-up. `length_axes` are, by
    signature, the outputs that are as long as the padded input, and in which axis. `instances` is how many threads are
    to serve it, where its configuration says so. `is_self_described`: see `SelfDescribed`.
    """

    def __init__(
        self,
        announcement: ModelAnnouncement,
        batching: Batching,
        backend: Backend,
        preparation: Preparation,
        *,
        instances: int | None = None,
        length_axes: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        self.announcement = announcement
        self.instances = instances
        self.batching = batching
        self.preparation = preparation
        self.cost = Cost()
        self.length_axes = length_axes or {}
        self.is_self_described = isinstance(backend, SelfDescribed)
        self._backend = backend

    @property
    def fault(self) -> str:
        """Why it cannot answer at present, "" where it can."""
        return self._backend.fault

    def run(self, signature: str, inputs: Arrays, rows: int) -> Arrays:
        """The caller's outputs for the graph's inputs, each with `rows` rows.

        Without batching (`max_batch_size` 0), `rows` is 1, and what goes in and comes out carries one dimension of 1
        more than the graph's tensors. Raises `ModelFailed` for an answer that does not fit, and for what ends a
        program (`sys.exit`); what else the backend raises passes through.
        """
        batches = self.batching.max_batch_size > 0
        if not batches:
            inputs = {name: array.reshape(array.shape[1:]) for name, array in inputs.items()}
        outputs = self._computed(signature, inputs)
        if not batches:
            outputs = {name: np.asarray(array)[np.newaxis] for name, array in outputs.items()}
        outputs = self.preparation.after({spec.name: outputs[spec.name] for spec in self._outputs(signature)})
        for name, array in outputs.items():
            if array.shape[:1] != (rows,):
                raise ModelFailed(f"output '{name}' has shape {list(array.shape)} for a batch of {rows} rows")
        return outputs

    def _computed(self, signature: str, inputs: Arrays) -> Arrays:
        try:
            return self._backend.run(signature, inputs)
        except RowErrors as error:
            if self.batching.max_batch_size:
                raise
            raise next(iter(error.errors.values())) from error
        except BaseException as error:
            if isinstance(error, Exception) or ends_the_program(error):
                raise
            raise self.failure(error) from error

    def failure(self, error: BaseException) -> MillraceError:
        """What a caller is told of an error that its request led to."""
        if isinstance(error, MillraceError):
            return error
        first_line = public(str(error).strip().partition("\n")[0])[:300]
        what = type(error).__name__ + (f": {first_line}" if first_line else "")
        return ModelFailed(f"model '{self.announcement.name}' failed: {what}")

    def close(self) -> None:
        """Give back what it holds; nothing runs any more."""
        self._backend.close()

    def warm_up(self) -> None:
        """Run the largest batch on zeros, so that no caller waits for its first run, and measure the cost of runs."""
        if self.is_self_described:
            return
        served = {name: self._backend.signatures[name] for name in self.announcement.signatures}
        if self.batching.max_batch_size > 1:
            warmup.run_on_zeros(self._backend, served, self.batching.max_batch_size)
        self.cost = warmup.measured_cost(self._backend, served, self.preparation, self.batching.max_batch_size)

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
    models: Models | None = None,
) -> Model:
    """The version in the folder, warmed up. Raises `LoadError`.

    `models` is what a model's code calls others with; without it code does not run.

    A manifest says how requests are grouped, else the `config.pbtxt` of its model; without both, up to `max_batch_size`
    rows where every tensor's first dimension is free, else not at all. Rows are batched only where a trial shows that
    they may be; `config.pbtxt` can say so instead.
    """
    config = config or TritonConfig()
    if not _NAME.fullmatch(name):
        raise LoadError(f"{name!r} cannot be a model's name: letters, digits, '.', '_' and '-' can be used")
    try:
        manifest = manifests.read(folder)
        if manifest:
            manifests.verify(folder, manifest)
            declared.check_files(folder, manifest)
        preparation = preprocess.load(folder, manifest)
    except (ManifestError, OSError) as error:
        raise LoadError(public(str(error), folder)) from error
    runtime = backends.load(folder, device, config.format or backend, models)
    own = runtime if isinstance(runtime, SelfDescribed) else None
    signatures = manifest.signatures if manifest else dict(runtime.signatures)
    if manifest:
        declared.check_signatures(manifest, runtime)
    if own:
        batching = own.batching
    else:
        batching = manifest.batching if manifest else declared.batching(runtime, config, max_batch_size)
    declared.check_config(config, signatures, batching)
    if ignored := declared.ignored(config, manifest, device, runtime):
        _log.warning("config.pbtxt asks for what is not done", extra={"model": name, "fields": ignored})
    shown = Evidence()
    with _load_errors(folder):
        if not own:
            rows = min(1, batching.max_batch_size)
            warmup.run_on_zeros(runtime, {s: runtime.signatures[s] for s in signatures}, rows)
        is_told = own or (manifest is None and config.max_batch_size is not None)  # config.pbtxt is taken at its word
        if not is_told:
            shown = trial.of_model(runtime, signatures, preparation, batching.max_batch_size, device)
    if shown.reason:
        batching = msgspec.structs.replace(batching, max_batch_size=1 if manifest else 0)
        _log.warning("requests are not batched", extra={"model": name, "reason": shown.reason})
    announcement = ModelAnnouncement(
        name=name,
        version=version,
        state="AVAILABLE",
        platform=runtime.platform,
        description=manifest.description if manifest else "",
        signatures=signatures,
        labels=manifest.labels if manifest and manifest.labels else declared.labels(folder.parent, config),
        max_batch_size=batching.max_batch_size,
        has_whole_requests=bool(shown.length_axes),
        notes=_notes(runtime, ignored, shown.reason, is_batched=bool(batching.max_batch_size)),
    )
    model = Model(
        announcement,
        batching,
        runtime,
        preparation,
        instances=own.instances if own else config.instances.get(device.kind) or config.instances.get("auto"),
        length_axes=shown.length_axes,
    )
    with _load_errors(folder):
        model.warm_up()
    return model


@contextmanager
def _load_errors(folder: Path) -> Iterator[None]:
    """Turns whatever a runtime raises into a `LoadError`."""
    try:
        yield
    except BaseException as error:
        if ends_the_program(error):
            raise
        can_retry = getattr(error, "can_retry", False)
        reason = f"{place(folder)}: the model loads but fails on zeros: {public(str(error), folder)}"
        raise LoadError(reason, can_retry=can_retry) from error


def _notes(runtime: Backend, ignored: Sequence[str], not_batched: str, *, is_batched: bool) -> tuple[str, ...]:
    notes = [*runtime.notes]
    if ignored:
        notes.append(f"{CONFIG_PBTXT} asks for what is not done: {'; '.join(ignored)}.")
    if not_batched:
        notes.append(f"{'Rows run one by one' if is_batched else 'Requests are not batched'}: {not_batched}.")
    return tuple(notes)
