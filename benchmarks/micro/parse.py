"""Reading one 28x28 image of JSON: simdjson's buffer beside general parsers.

.venv/bin/python -m benchmarks.micro.parse
"""

import json

import numpy as np
import orjson

from benchmarks.micro.timing import calls, compare
from millrace.protocol.tensors import TensorSpec
from serving.protocols import json_tensors

BODIES = 500
SPEC = TensorSpec(name="image", datatype="FP32", shape=(-1, 28, 28, 1))
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1))
ROWS = json.dumps({"instances": IMAGE.tolist()}, separators=(",", ":")).encode()
FLAT = json.dumps({"inputs": [{"data": IMAGE.ravel().tolist()}]}, separators=(",", ":")).encode()


def main() -> None:
    """TensorFlow Serving's nested lists, and the flat list of the Open Inference Protocol."""
    compare(
        "a body of nested lists",
        {
            "fast_rows": calls(lambda: json_tensors.fast_rows(ROWS, SPEC), BODIES),
            "orjson + asarray": calls(lambda: np.asarray(orjson.loads(ROWS)["instances"], np.float32), BODIES),
            "json + asarray": calls(lambda: np.asarray(json.loads(ROWS)["instances"], np.float32), BODIES),
            "to_tensor": calls(lambda: json_tensors.to_tensor(json_tensors.load(ROWS)["instances"], SPEC), BODIES),
        },
    )
    compare(
        "a body with a flat list",
        {
            "numbers": calls(
                lambda: json_tensors.numbers(json_tensors.parse(FLAT)["inputs"][0]["data"], "FP32"), BODIES
            ),
            "orjson + asarray": calls(lambda: np.asarray(orjson.loads(FLAT)["inputs"][0]["data"], np.float32), BODIES),
        },
    )


if __name__ == "__main__":
    main()
