"""A model version as a worker holds it: its manifest, its backend and the steps around it."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from millrace.artifacts import manifest as manifests
from millrace.artifacts.configs import CONFIG_PBTXT, TritonConfig
from millrace.artifacts.manifest import Batching, ManifestError
from millrace.model import Models
from millrace.protocol import names
from millrace.protocol.errors import DeadlineExceeded, MillraceError, ModelFailed, Unavailable
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import Signature, TensorSpec
from worker.backends.base import (
    Arrays,
    Backend,
    Device,
    LoadError,
    RowErrors,
    SelfDescribed,
    ends_the_program,
)
from worker.backends.texts import place, public, reason_of
from worker.loading import declared, fixed_sizes, presented, warmup, warmup_requests
from worker.loading.budget import MEMORY_BYTES, Budget
from worker.loading.declared import Grouping
from worker.loading.first_runs import FirstRuns, first_runs
from worker.loading.fixed_sizes import FixedSizes
from worker.loading.runtimes import Runtimes
from worker.loading.samples import Subject
from worker.preprocessing import preparation as preparations
from worker.preprocessing.preparation import Preparation
from worker.running.batcher import Cost

_log = logging.getLogger(__name__)


class Model:
    """A loaded version. `run` may be called from several threads.

    `cost` is what a run takes by its rows' length, where that may differ; measured at warm-up. `length_axes` are, by
    signature, the outputs that are as long as the padded input, and in which axis. `instances` is how many threads are
    to serve it, where its configuration says so. `is_self_described`: see `SelfDescribed`. `is_told_requests`: its runs
    are told which requests they answer.
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
        cost: Cost = Cost(),  # noqa: B008 - it is immutable
        sizes: FixedSizes | None = None,
    ) -> None:
        self.announcement = announcement
        self.instances = instances
        self.batching = batching
        self.preparation = preparation
        self.cost = cost
        self.length_axes = length_axes or {}
        self.is_self_described = isinstance(backend, SelfDescribed)
        self.is_told_requests = self.is_self_described or getattr(backend, "passes_traces_on", False)
        self._backend = backend
        self._sizes = sizes

    @property
    def fault(self) -> str:
        """Why it cannot answer at present, "" where it can."""
        return self._backend.fault

    @property
    def has_rows(self) -> bool:
        """Whether the first dimension of its tensors counts rows, so that requests may be batched."""
        return self.batching.max_batch_size > 0

    @property
    def axes(self) -> Mapping[str, Sequence[str]]:
        """See `Backend.axes`."""
        return self._backend.axes

    def joined(self, parts: Sequence[Arrays], *, has_rows: bool = True) -> Arrays:
        """The rows of all the parts of a batch; more, for `run` to drop, where the model runs in fixed sizes."""
        return self.preparation.joined(self._sizes.filled(parts) if has_rows and self._sizes else parts)

    def run(self, signature: str, inputs: Arrays, rows: int, *, has_rows: bool | None = None) -> Arrays:
        """The caller's outputs for the graph's inputs, each with `rows` rows, or as many as `joined` made of them.

        Where requests have no rows (`has_rows`; by default where the model does not batch), `rows` is 1, and what goes
        in and comes out carries one dimension of 1 more than the graph's tensors. Raises `ModelFailed` for an answer
        that does not fit, and for what ends a program (`sys.exit`); what else the backend raises passes through.
        """
        has_rows = self.has_rows if has_rows is None else has_rows
        if not has_rows:
            inputs = {name: array.reshape(array.shape[1:]) for name, array in inputs.items()}
        outputs = self._computed(signature, inputs, has_rows=has_rows)
        if has_rows and self._sizes:
            outputs = {name: array[:rows] for name, array in outputs.items()}
        if not has_rows:
            outputs = {name: np.asarray(array)[np.newaxis] for name, array in outputs.items()}
        outputs = self.preparation.after({spec.name: outputs[spec.name] for spec in self._outputs(signature)})
        for name, array in outputs.items():
            if array.shape[:1] != (rows,):
                raise ModelFailed(f"output '{name}' has shape {list(array.shape)} for a batch of {rows} rows")
        return outputs

    def _computed(self, signature: str, inputs: Arrays, *, has_rows: bool) -> Arrays:
        of_size = self._sizes.of(len(next(iter(inputs.values())))) if has_rows and self._sizes else None
        try:
            return (of_size or self._backend).run(signature, inputs)
        except RowErrors as error:
            if has_rows:
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
        kind, reason = type(error).__name__, reason_of(error, whole=False)
        what = kind if reason == kind else f"{kind}: {reason}"
        return ModelFailed(f"model '{self.announcement.name}' failed: {what}")

    def close(self) -> None:
        """Give back what it holds; nothing runs any more."""
        self._backend.close()
        if self._sizes:
            self._sizes.close()

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
    not_run: str = "",
    memory_bytes: int = MEMORY_BYTES,
    before_runs: Callable[[], None] = lambda: None,
) -> Model:
    """The version in the folder, warmed up. Raises `LoadError`.

    `models` is what a model's code calls others with; without it code does not run.

    A manifest says how requests are grouped, else the `config.pbtxt` of its model; without both, up to `max_batch_size`
    rows where every tensor's first dimension is free, else not at all. Rows are batched only where a trial shows that
    they may be; `config.pbtxt` and a manifest can say so instead.

    `not_run` is why nothing is run before the first request, "" where the version is to be warmed up, in about
    `memory_bytes`. `before_runs` is called when the model is loaded and its first runs begin.
    """
    config = config or TritonConfig()
    if why := names.unfit(name):
        raise LoadError(f"{names.quoted(name)} cannot be served: {why}")
    with _manifest_errors(folder):
        manifest = None if config.is_alone else manifests.read(folder)
        if manifest:
            manifests.verify(folder, manifest)
            declared.check_files(folder, manifest)
    runtimes = Runtimes(folder, device, config, backend, models)
    runtime = runtimes.first
    with _manifest_errors(folder):
        is_complete = bool(manifest and manifest.signatures)
        manifest = presented.completed(manifest, runtime.signatures) if manifest else None
        preparation = preparations.load(folder, manifest, presented.inputs_of(manifest, runtime.signatures))
    presenting = () if is_complete else tuple(presented.notes(manifest, runtime.signatures))
    signatures = manifest.signatures if manifest else dict(runtime.signatures)
    if manifest:
        declared.check_signatures(manifest, runtime)
    grouping = declared.grouping(runtime, manifest, config, max_batch_size)
    declared.check_config(config, signatures if is_complete else dict(runtime.signatures), grouping.batching)
    has_rows = bool(grouping.batching.max_batch_size)
    if manifest is None:  # callers are held to what config.pbtxt says, as in Triton
        signatures = {
            name: declared.narrowed(signature, name, None, config, has_rows=has_rows)
            for name, signature in signatures.items()
        }
    given = warmup_requests.read(folder, manifest, config, runtime.signatures, preparation, has_rows=has_rows)
    subjects = {
        signature: Subject(
            signature=declared.narrowed(runtime.signatures[signature], signature, manifest, config, has_rows=has_rows),
            preparation=preparation,
            axes=runtime.axes,
            given=given.of(signature),
        )
        for signature in signatures
    }
    before_runs()
    not_run = not_run or runtime.keeps_state
    shown = _shown(folder, runtimes, signatures, subjects, preparation, grouping, device, not_run, memory_bytes)
    runtimes.spread()
    batching = grouping.after(shown)
    if shown.not_batched:
        _log.warning("requests are not batched", extra={"model": name, "reason": shown.not_batched})
    ignored = declared.ignored(config, manifest, device, runtime)
    if ignored:
        _log.warning("config.pbtxt asks for what is not done", extra={"model": name, "fields": ignored})
    said = [*_notes(ignored), *grouping.notes(shown)]
    if shown.not_warmed:
        _log.warning("a model was not warmed up", extra={"model": name, "reason": shown.not_warmed})
    announcement = ModelAnnouncement(
        name=name,
        version=version,
        state="AVAILABLE",
        platform=runtime.platform,
        description=" ".join(filter(None, [manifest.description if manifest else "", *said])),
        signatures=signatures,
        labels=(manifest and manifest.labels) or declared.labels(folder.parent, config) or tuple(runtime.labels),
        max_batch_size=batching.max_batch_size,
        has_whole_requests=bool(shown.length_axes),
        triton_config=config.message,
        warmed=not shown.not_warmed,
        notes=(*runtime.notes, *presenting, *said, *given.notes, *_warm_notes(shown)),
    )
    return Model(
        announcement,
        batching,
        runtime,
        preparation,
        instances=declared.instances(config, device, runtime),
        length_axes=shown.length_axes,
        cost=shown.cost,
        sizes=_fixed_sizes(runtimes, subjects, batching.max_batch_size, not_run),
    )


def _fixed_sizes(runtimes: Runtimes, subjects: Mapping[str, Subject], most: int, not_run: str) -> FixedSizes | None:
    """The model for each size of a batch, where its runtime prepares itself for each shape anew."""
    if not_run or most < 2 or not runtimes.prepares_shapes:
        return None
    ((name, subject),) = subjects.items()
    try:
        row = warmup.sample(runtimes.first, name, subject, Budget())
    except Exception as error:  # whatever the runtime raises: then nothing warms it up
        _log.info("a model has no fixed sizes of batches", extra={"reason": reason_of(error)})
        return None
    return fixed_sizes.load(runtimes.again, most, name, row)


@contextmanager
def _manifest_errors(folder: Path) -> Iterator[None]:
    """Turns what is wrong with a manifest, or with a file that it names, into a `LoadError`."""
    try:
        yield
    except (ManifestError, OSError) as error:
        raise LoadError(public(str(error), folder)) from error


def _shown(
    folder: Path,
    runtimes: Runtimes,
    signatures: Mapping[str, Signature],
    subjects: Mapping[str, Subject],
    preparation: Preparation,
    grouping: Grouping,
    device: Device,
    not_run: str,
    memory_bytes: int,
) -> FirstRuns:
    """What the first runs show. Raises `LoadError` for a model that depends on something that is away."""
    runtime = runtimes.first
    if isinstance(runtime, SelfDescribed) and not any(subject.given for subject in subjects.values()):
        return FirstRuns()  # it is run on nothing made up
    if not_run:
        reason = "" if grouping.is_told or not grouping.batching.max_batch_size else f"no trial was made: {not_run}"
        return FirstRuns(not_batched=reason, not_warmed=not_run)
    try:
        return first_runs(
            runtime,
            signatures,
            subjects,
            preparation,
            device=device,
            max_batch_size=grouping.batching.max_batch_size,
            is_told=grouping.is_told,
            budget=Budget(memory_bytes=memory_bytes, is_first_free=device.kind == "cuda"),
            exact=runtimes.exact if runtimes.rounds else None,
        )
    except (Unavailable, DeadlineExceeded) as error:
        raise LoadError(f"{place(folder)}: the model loads but cannot run: {error}", can_retry=True) from error


def _notes(ignored: Sequence[str]) -> Iterator[str]:
    if ignored:
        yield f"{CONFIG_PBTXT} asks for what is not done: {'; '.join(ignored)}."


def _warm_notes(shown: FirstRuns) -> Iterator[str]:
    if shown.not_warmed:
        yield f"It is not warmed up, so its first request may take longer: {shown.not_warmed}."
