"""The small digit CNN that every server of `make bench` serves, built on the spot, and images with answers apart."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Floats = npt.NDArray[np.float32]
_SEED = 7
_APART = 0.02  # two images' answers differ by so much in at least one score


def write(path: Path) -> None:
    """Write the model: `image` FP32 [-1,28,28,1], 0 to 255, to `probabilities` FP32 [-1,10].

    Two convolutions with pooling and a dense layer, as in the Keras tutorial that the peers' harness took it from.
    The weights are random but seeded, and large enough that different images get clearly different scores.
    """
    rng = np.random.default_rng(_SEED)

    def weights(name: str, *shape: int, gain: float = 1.0) -> onnx.TensorProto:
        fan_in = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
        return numpy_helper.from_array((rng.normal(size=shape) * gain / np.sqrt(fan_in)).astype("f4"), name)

    def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node(kind, inputs.split(), [output], **attributes)

    graph = helper.make_graph(
        [
            node("Mul", "image scale", "scaled"),
            node("Reshape", "scaled to_planes", "planes"),
            node("Conv", "planes w1", "c1", kernel_shape=[3, 3]),
            node("Relu", "c1", "r1"),
            node("MaxPool", "r1", "p1", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", "p1 w2", "c2", kernel_shape=[3, 3]),
            node("Relu", "c2", "r2"),
            node("MaxPool", "r2", "p2", kernel_shape=[2, 2], strides=[2, 2]),
            node("Transpose", "p2", "last", perm=[0, 2, 3, 1]),
            node("Reshape", "last to_row", "row"),
            node("MatMul", "row w3", "logits"),
            node("Softmax", "logits", "probabilities", axis=-1),
        ],
        "cnn",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 28, 28, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10])],
        [
            numpy_helper.from_array(np.array(1 / 255, "f4"), "scale"),
            numpy_helper.from_array(np.array([-1, 1, 28, 28]), "to_planes"),
            numpy_helper.from_array(np.array([-1, 1600]), "to_row"),
            weights("w1", 32, 1, 3, 3),
            weights("w2", 64, 32, 3, 3),
            weights("w3", 1600, 10, gain=8.0),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """ONNX Runtime on the model, in this process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def scores(path: Path, images: Floats) -> Floats:
    """What ONNX Runtime answers, image by image."""
    run = session(path).run
    answers: Floats = np.concatenate([run(None, {"image": image[None]})[0] for image in images])
    return answers


def distinct_images(path: Path, count: int) -> tuple[Floats, Floats]:
    """`count` images [count,28,28,1] of a few grey levels, mostly black, and their scores, no two of them alike."""
    rng = np.random.default_rng(_SEED)
    images: list[Floats] = []
    kept = np.empty((0, 10), "f4")
    while len(images) < count:
        candidates = rng.choice([0, 0, 0, 0, 128, 255], (256, 28, 28, 1)).astype("f4")
        for image, answer in zip(candidates, scores(path, candidates), strict=True):
            if len(images) < count and (np.abs(kept - answer).max(axis=1) > _APART).all():
                images.append(image)
                kept = np.vstack([kept, answer])
    return np.stack(images), kept
