"""The model of the baselines: $MODEL, an ONNX file, on one CPU thread."""

import os

import numpy as np
import numpy.typing as npt
import onnxruntime

_options = onnxruntime.SessionOptions()
_options.intra_op_num_threads = 1
_session = onnxruntime.InferenceSession(os.environ["MODEL"], _options, providers=["CPUExecutionProvider"])
_input = _session.get_inputs()[0].name


def predict(images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The scores of a batch."""
    answer: npt.NDArray[np.float32] = _session.run(None, {_input: images})[0]
    return answer
