"""TensorFlow Serving's leniency: it holds no request against the signature's shape, and leaves the model to refuse it.

Here a tensor that only lacks its last axes of size 1 is taken: [3] for a signature's [-1, 1]. The answer then lacks
them, too, as it does there.
"""

from collections.abc import Mapping

from millrace.protocol.tensors import Signature, Tensor, TensorSpec


def fitted(inputs: dict[str, Tensor], signature: Signature) -> tuple[dict[str, Tensor], int]:
    """The inputs in their signature's shapes, and how many last axes they lacked at most."""
    found, lacking = inputs, 0
    for spec in signature.inputs:
        tensor = inputs.get(spec.name)
        if tensor is not None and len(tensor.shape) < len(spec.shape):
            shape = fitted_shape(tensor.shape, spec)
            found = found | {spec.name: Tensor(tensor.datatype, shape, tensor.data, tensor.layout)}
            lacking = max(lacking, len(shape) - len(tensor.shape))
    return found, lacking


def fitted_shape(shape: tuple[int, ...], spec: TensorSpec) -> tuple[int, ...]:
    """The shape with the last axes of size 1 that the signature has beyond it; as it is where that does not fit."""
    missing = spec.shape[len(shape) :]
    if not shape or not missing or any(size != 1 for size in missing):
        return shape
    return (*shape, *missing) if all(want in (-1, got) for want, got in zip(spec.shape, shape, strict=False)) else shape


def without_last_axes(outputs: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """The outputs without so many last axes of size 1, where they have them beside others."""
    return {
        name: Tensor(t.datatype, t.shape[:-count], t.data)
        if count < len(t.shape) and t.shape[-count:] == (1,) * count
        else t
        for name, t in outputs.items()
    }
