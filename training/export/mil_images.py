"""Resizing, and pixels that move between the image and its channels: ONNX's operators in MIL."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
from coremltools.converters.mil import Builder as mb  # noqa: N813 - its own name everywhere

from training.export.mil import Attributes, NotInMil, Value, known_shape, node


@node("DepthToSpace")
def _depth_to_space(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    if attributes.get("mode", b"DCR") == b"CRD":
        return mb.pixel_shuffle(x=inputs[0], upscale_factor=attributes["blocksize"])
    return mb.depth_to_space(x=inputs[0], block_size=attributes["blocksize"])


@node("SpaceToDepth")
def _space_to_depth(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    return mb.space_to_depth(x=inputs[0], block_size=attributes["blocksize"])


@node("Resize")
def _resize(attributes: Attributes, inputs: Sequence[Value]) -> Value:
    """Images [rows, channels, height, width]. A known size is a product with a matrix for each axis, whatever the mode.

    Other sizes are left to MIL's own operators, which know whole factors and fixed targets.
    """
    value, scales, sizes = inputs[0], *[*inputs[2:], None, None][:2]
    if scales is not None and not scales.size:
        scales = None
    shape = known_shape(value)
    if scales is None and not isinstance(sizes, np.ndarray):
        raise NotInMil("its size depends on the data")
    for axis in range(len(shape)):
        if (scales[axis] == 1) if scales is not None else (sizes[axis] == shape[axis] or axis < 2):
            continue
        size = shape[axis]
        if size is None:
            return _resized_freely(attributes, value, scales, sizes)
        matrix = _matrix(attributes, size, scales, sizes, axis)
        value = _along(value, matrix, axis)
    return value


def _matrix(attributes: Attributes, size: int, scales: Any, sizes: Any, axis: int) -> npt.NDArray[np.float32]:
    """What resizing does along one axis: [new size, size]."""
    kept = {name: value for name, value in attributes.items() if name not in ("outputs", "axes")}
    given = {"x": np.eye(size, dtype=np.float32), "roi": np.zeros(0, np.float32)}
    if scales is not None:
        names, given["scales"] = ["x", "roi", "scales"], np.array([scales[axis], 1], np.float32)
    else:
        names, given["sizes"] = ["x", "roi", "", "sizes"], np.array([sizes[axis], size], np.int64)
    resize = onnx.helper.make_node("Resize", names, ["y"], **kept)
    (found,) = onnx.reference.ReferenceEvaluator(resize).run(None, given)
    return np.asarray(found, np.float32)


def _along(value: Value, matrix: npt.NDArray[np.float32], axis: int) -> Value:
    rank = len(value.shape)
    if axis == rank - 1:
        return mb.matmul(x=value, y=np.ascontiguousarray(matrix.T))
    if axis == rank - 2:
        return mb.matmul(x=matrix, y=value)
    raise NotInMil("it resizes more than two axes")


def _resized_freely(attributes: Attributes, value: Value, scales: Any, sizes: Any) -> Value:
    mode, place = attributes.get("mode", b"nearest"), attributes.get("coordinate_transformation_mode", b"half_pixel")
    if len(value.shape) != 4:
        raise NotInMil("it resizes other than images")
    if scales is not None and all(float(scale).is_integer() for scale in scales):
        factors = {"scale_factor_height": int(scales[2]), "scale_factor_width": int(scales[3])}
        if mode == b"nearest":
            return mb.upsample_nearest_neighbor(x=value, **factors)
        if mode == b"linear" and place == b"half_pixel":
            return mb.upsample_bilinear(x=value, align_corners=False, half_pixel_centers=True, **factors)
    if sizes is not None and mode == b"linear" and place == b"half_pixel":
        target = {"target_size_height": int(sizes[2]), "target_size_width": int(sizes[3])}
        return mb.resize_bilinear(x=value, sampling_mode="UNALIGN_CORNERS", **target)
    raise NotInMil("images of any size are resized other than bilinearly, or to the nearest by a whole factor")
