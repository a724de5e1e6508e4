"""Reading one 28x28 image of JSON: simdjson's buffer, what stands in for it, and general parsers.

.venv/bin/python -m benchmarks.micro.parse
"""

import json

import numpy as np
import orjson

from benchmarks.micro.timing import calls, compare
from millrace.protocol.tensors import TensorSpec
from serving.protocols import json_tensors
from serving.protocols.json_numbers import NumberReader, Orjson, Simdjson

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
            "fast_rows": calls(lambda: json_tensors.fast_rows(ROWS, SPEC, Simdjson()), BODIES),
            "fast_rows without simdjson": calls(lambda: json_tensors.fast_rows(ROWS, SPEC, Orjson()), BODIES),
            "orjson + asarray": calls(lambda: np.asarray(orjson.loads(ROWS)["instances"], np.float32), BODIES),
            "json + asarray": calls(lambda: np.asarray(json.loads(ROWS)["instances"], np.float32), BODIES),
            "to_tensor": calls(lambda: json_tensors.to_tensor(json_tensors.load(ROWS)["instances"], SPEC), BODIES),
        },
    )
    compare(
        "a body with a flat list",
        {
            "numbers": calls(lambda: _numbers(Simdjson()), BODIES),
            "numbers without simdjson": calls(lambda: _numbers(Orjson()), BODIES),
            "orjson + asarray": calls(lambda: np.asarray(orjson.loads(FLAT)["inputs"][0]["data"], np.float32), BODIES),
        },
    )


def _numbers(reader: NumberReader) -> np.ndarray:
    return reader.numbers(reader.parse(FLAT)["inputs"][0]["data"], "d").astype(np.float32)


if __name__ == "__main__":
    main()
