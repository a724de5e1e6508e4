"""Tensors that callers see in another shape than the model's file has them: `reshape` of `config.pbtxt`."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy.typing as npt

from millrace.artifacts.configs import CONFIG_PBTXT, TensorConfig, TritonConfig
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from worker.backends.base import Arrays, Backend, LoadError

_Shape = tuple[int, ...]


class ReshapedBackend:
    """A backend whose default signature has some tensors in other shapes; all else is the backend's own.

    `inputs` are, by name, the callers' shape and the file's, `outputs` the file's and the callers'.
    """

    def __init__(
        self,
        backend: Backend,
        inputs: Mapping[str, tuple[_Shape, _Shape]],
        outputs: Mapping[str, tuple[_Shape, _Shape]],
    ) -> None:
        self._backend = backend
        self._inputs = inputs
        self._outputs = outputs
        self.platform = backend.platform
        self.notes = backend.notes
        self.labels = backend.labels
        self.mixed_rows = backend.mixed_rows
        self.keeps_state = backend.keeps_state
        self.axes: Mapping[str, Sequence[str]] = _axes(backend.axes, {**inputs, **outputs})
        own = backend.signatures[DEFAULT_SIGNATURE]
        seen = msgspec.structs.replace(
            own,
            inputs=tuple(_seen(spec, inputs[spec.name][0] if spec.name in inputs else None) for spec in own.inputs),
            outputs=tuple(_seen(spec, outputs[spec.name][1] if spec.name in outputs else None) for spec in own.outputs),
        )
        self.signatures: Mapping[str, Signature] = {**backend.signatures, DEFAULT_SIGNATURE: seen}

    @property
    def fault(self) -> str:
        """See `Backend`."""
        return self._backend.fault

    def run(self, signature: str, inputs: Arrays) -> Arrays:
        """See `Backend`."""
        if signature != DEFAULT_SIGNATURE:
            return self._backend.run(signature, inputs)
        outputs = self._backend.run(signature, _reshaped(inputs, self._inputs))
        return _reshaped(outputs, self._outputs)

    def close(self) -> None:
        """See `Backend`."""
        self._backend.close()


def reshaped(backend: Backend, config: TritonConfig) -> Backend:
    """The backend as callers are to see it. Raises `LoadError` for a tensor that the model has not, or not so."""
    if not any(tensor.reshape is not None for tensor in (*config.inputs, *config.outputs)):
        return backend
    signature = backend.signatures.get(DEFAULT_SIGNATURE)
    if signature is None:
        raise LoadError(f"{CONFIG_PBTXT} has a reshape, which is for a model with a signature {DEFAULT_SIGNATURE}")
    is_batched = bool(config.max_batch_size)
    inputs = dict(_shapes("input", config.inputs, signature.inputs, is_batched=is_batched))
    outputs = dict(_shapes("output", config.outputs, signature.outputs, is_batched=is_batched))
    return ReshapedBackend(backend, inputs, {name: (own, seen) for name, (seen, own) in outputs.items()})


def _shapes(
    what: str, declared: Sequence[TensorConfig], specs: Sequence[TensorSpec], *, is_batched: bool
) -> list[tuple[str, tuple[_Shape, _Shape]]]:
    """By name, the callers' shape of each tensor that has a reshape, and the file's."""
    by_name, found = {spec.name: spec for spec in specs}, []
    for tensor in declared:
        spec = by_name.get(tensor.name)
        if tensor.reshape is None or spec is None:  # a name that is not there is said elsewhere
            continue
        # Where max_batch_size is not given, the file says whether there is a dimension more.
        rows: _Shape = (-1,) if is_batched or len(spec.shape) == len(tensor.reshape) + 1 else ()
        own = (*rows, *tensor.reshape)
        if len(own) != len(spec.shape) or not all(map(_fit, own, spec.shape)):
            raise LoadError(
                f"{CONFIG_PBTXT} reshapes {what} '{tensor.name}' to {list(own)}, but the model has {list(spec.shape)}"
            )
        found.append((tensor.name, ((*rows, *tensor.dims), own)))
    return found


def _axes(names: Mapping[str, Sequence[str]], shapes: Mapping[str, tuple[_Shape, _Shape]]) -> dict[str, Sequence[str]]:
    """The dimensions' names; of a tensor in another shape only that of its rows is left."""
    has_rows = {name: all(shape[:1] == (-1,) for shape in both) for name, both in shapes.items()}
    return {name: own[: int(has_rows[name])] if name in has_rows else own for name, own in names.items()}


def _fit(one: int, other: int) -> bool:
    return one == other or -1 in (one, other)


def _seen(spec: TensorSpec, shape: _Shape | None) -> TensorSpec:
    return spec if shape is None else msgspec.structs.replace(spec, shape=shape)


def _reshaped(arrays: Arrays, shapes: Mapping[str, tuple[_Shape, _Shape]]) -> Arrays:
    return {name: _one(array, *shapes[name]) if name in shapes else array for name, array in arrays.items()}


def _one(array: npt.NDArray[Any], seen: _Shape, wanted: _Shape) -> npt.NDArray[Any]:
    """The array of one shape in the other; the free dimensions keep their sizes, in their order.

    One of another rank is for the runtime to judge.
    """
    if array.ndim != len(seen):
        return array
    free = [size for size, declared in zip(array.shape, seen, strict=True) if declared < 0]
    return array.reshape([free.pop(0) if size < 0 else size for size in wanted])
