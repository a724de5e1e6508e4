"""Networks that are large enough for a GPU, written on the spot with random weights: images and texts.

A residual network takes images as bytes (150 KB each) or as floats (600 KB), an encoder takes ids of tokens (1 KB).
Their sizes are those of ResNet-50 and BERT-base, so that much is computed for each row; what they answer means nothing,
and is much alike for all rows. So the last number of an answer is the first of its row, on a scale from 0 to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_SEED = 7
_TOKENS, _WORDS = 128, 30_522
_CLASSES = 100


@dataclass(slots=True)
class _Graph:
    """Nodes and weights, as they are added."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(_SEED))

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """The name of the output."""
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def constant(self, value: npt.ArrayLike) -> str:
        """The name of the tensor."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def random(self, *shape: int, fan_in: int, gain: float = 1.0) -> str:
        """A tensor of normal numbers, whose products with `fan_in` others keep their size times `gain`."""
        values = self.rng.standard_normal(shape, np.float32)
        return self.constant(values * np.float32(gain / np.sqrt(fan_in)))

    def save(self, path: Path, row: Any, output: str, scale: int) -> None:
        """Write the model, whose answer is `scores` [-1,101]; `row` is its input, of numbers up to `scale`."""
        first = self.node("Gather", self.node("Flatten", row.name), self.constant(np.array([0])), axis=1)
        first = self.node("Mul", self.node("Cast", first, to=TensorProto.FLOAT), self.constant(np.float32(1 / scale)))
        scores = self.node("Softmax", output, axis=-1)
        self.nodes.append(helper.make_node("Concat", [scores, first], ["scores"], axis=1))
        outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", _CLASSES + 1])]
        graph = helper.make_graph(self.nodes, path.stem, [row], outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)


def write_residual(path: Path, *, is_bytes: bool, side: int = 224, blocks: Sequence[int] = (3, 4, 6, 3)) -> None:
    """Write ResNet-50's graph: `image` UINT8 or FP32 [-1,side,side,3], 0 to 255, to `scores` FP32 [-1,101]."""
    graph = _Graph()
    pixels = graph.node("Cast", "image", to=TensorProto.FLOAT) if is_bytes else "image"
    scaled = graph.node("Mul", pixels, graph.constant(np.float32(1 / 255)))
    planes = graph.node("Transpose", scaled, perm=[0, 3, 1, 2])
    x = _convolution(graph, planes, 3, 64, 7, stride=2)
    x = graph.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for stage, count in enumerate(blocks):
        inner, outer = 64 * 2**stage, 256 * 2**stage
        for number in range(count):
            stride = 2 if stage and not number else 1
            x, width = _bottleneck(graph, x, width, inner, outer, stride), outer
    pooled = graph.node("Flatten", graph.node("GlobalAveragePool", x))
    scores = graph.node("MatMul", pooled, graph.random(width, _CLASSES, fan_in=width, gain=4))
    kind = TensorProto.UINT8 if is_bytes else TensorProto.FLOAT
    graph.save(path, helper.make_tensor_value_info("image", kind, ["batch", side, side, 3]), scores, 255)


def _bottleneck(graph: _Graph, x: str, width: int, inner: int, outer: int, stride: int) -> str:
    y = _convolution(graph, x, width, inner, 1)
    y = _convolution(graph, y, inner, inner, 3, stride=stride)
    y = _convolution(graph, y, inner, outer, 1, gain=0.3, is_last=True)
    if width != outer or stride > 1:
        x = _convolution(graph, x, width, outer, 1, stride=stride, is_last=True)
    return graph.node("Relu", graph.node("Add", x, y))


def _convolution(
    graph: _Graph,
    x: str,
    inner: int,
    outer: int,
    kernel: int,
    *,
    stride: int = 1,
    gain: float = 1.4,
    is_last: bool = False,
) -> str:
    """A convolution, with its normalization folded in, and the activation unless it `is_last` before a sum."""
    weights = graph.random(outer, inner, kernel, kernel, fan_in=inner * kernel * kernel, gain=1.0 if is_last else gain)
    pads = [kernel // 2] * 4
    y = graph.node(
        "Conv",
        x,
        weights,
        graph.constant(np.zeros(outer, "f4")),
        kernel_shape=[kernel] * 2,
        strides=[stride] * 2,
        pads=pads,
    )
    return y if is_last else graph.node("Relu", y)


def write_encoder(path: Path, *, layers: int = 12, width: int = 768, heads: int = 12) -> None:
    """Write an encoder of BERT-base's size: `ids` INT64 [-1,128] to `scores` FP32 [-1,101]."""
    graph = _Graph()
    x = graph.node("Gather", graph.random(_WORDS, width, fan_in=1), "ids")
    x = graph.node("Add", x, graph.random(_TOKENS, width, fan_in=1))
    for _ in range(layers):
        x = _normalized(graph, graph.node("Add", x, _attention(graph, x, width, heads)), width)
        inner = graph.node("MatMul", x, graph.random(width, 4 * width, fan_in=width))
        x = _normalized(
            graph,
            graph.node(
                "Add", x, graph.node("MatMul", _gelu(graph, inner), graph.random(4 * width, width, fan_in=width))
            ),
            width,
        )
    first = graph.node("Gather", x, graph.constant(np.int64(0)), axis=1)
    scores = graph.node("MatMul", first, graph.random(width, _CLASSES, fan_in=width, gain=4))
    graph.save(path, helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", _TOKENS]), scores, _WORDS)


def _attention(graph: _Graph, x: str, width: int, heads: int) -> str:
    split = graph.constant(np.array([0, _TOKENS, heads, width // heads]))

    def part(perm: list[int]) -> str:
        projected = graph.node("MatMul", x, graph.random(width, width, fan_in=width))
        return graph.node("Transpose", graph.node("Reshape", projected, split), perm=perm)

    weights = graph.node("MatMul", part([0, 2, 1, 3]), part([0, 2, 3, 1]))
    scale = graph.constant(np.float32(1 / np.sqrt(width // heads)))
    weights = graph.node("Softmax", graph.node("Mul", weights, scale), axis=-1)
    mixed = graph.node("Transpose", graph.node("MatMul", weights, part([0, 2, 1, 3])), perm=[0, 2, 1, 3])
    joined = graph.node("Reshape", mixed, graph.constant(np.array([0, _TOKENS, width])))
    return graph.node("MatMul", joined, graph.random(width, width, fan_in=width))


def _normalized(graph: _Graph, x: str, width: int) -> str:
    return graph.node(
        "LayerNormalization", x, graph.constant(np.ones(width, "f4")), graph.constant(np.zeros(width, "f4")), axis=-1
    )


def _gelu(graph: _Graph, x: str) -> str:
    half = graph.node("Mul", x, graph.constant(np.float32(0.5)))
    erf = graph.node("Erf", graph.node("Mul", x, graph.constant(np.float32(np.sqrt(0.5)))))
    return graph.node("Mul", half, graph.node("Add", erf, graph.constant(np.float32(1))))


def rows(name: str, count: int, side: int = 224, seed: int = _SEED) -> dict[str, npt.NDArray[Any]]:
    """Random inputs for so many rows of a network of that name, `images`, `float-images` or `texts`.

    The first number of each row is another.
    """
    rng = np.random.default_rng(seed)
    places = np.arange(count) / count
    if name == "texts":
        ids = rng.integers(0, _WORDS, (count, _TOKENS))
        ids[:, 0] = places * _WORDS
        return {"ids": ids}
    # Patches of one colour each: what an image has of low frequencies is what survives a pooling.
    patches = rng.integers(0, 256, (count, 7, 7, 3), np.uint8)
    patches[:, 0, 0, 0] = places * 255
    images = np.kron(patches, np.ones((1, side // 7, side // 7, 1), np.uint8))
    return {"image": images if name == "images" else images.astype("f4")}
