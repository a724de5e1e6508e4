"""Reading one 28x28 image of JSON: with simdjson, without it, and with general parsers.

.venv/bin/python -m benchmarks.micro.parse
"""

import json
from functools import partial

import numpy as np
import orjson

from benchmarks.micro.timing import calls, compare
from millrace.protocol.messages import ModelAnnouncement
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from serving.models.registry import ServedModel
from serving.protocols import json_tensors
from serving.protocols.json_numbers import NumberReader, Orjson, Simdjson
from serving.protocols.oip import rest as oip

BODIES = 500
SPEC = TensorSpec(name="image", datatype="FP32", shape=(-1, 28, 28, 1))
IMAGE = np.random.default_rng(0).integers(0, 256, (1, 28, 28, 1))
ROWS = json.dumps({"instances": IMAGE.tolist()}, separators=(",", ":")).encode()
MODEL = ServedModel(
    ModelAnnouncement(
        name="digits",
        version=1,
        state="AVAILABLE",
        signatures={DEFAULT_SIGNATURE: Signature(inputs=(SPEC,), outputs=())},
    )
)


def main() -> None:
    """TensorFlow Serving's rows, then the nested and the flat data of the Open Inference Protocol."""
    compare(
        "rows, whole numbers",
        {
            "simdjson": calls(lambda: json_tensors.fast_rows(ROWS, SPEC, Simdjson()), BODIES),
            "without simdjson": calls(lambda: json_tensors.fast_rows(ROWS, SPEC, Orjson()), BODIES),
            "orjson + asarray": calls(lambda: np.asarray(orjson.loads(ROWS)["instances"], np.float32), BODIES),
            "json + asarray": calls(lambda: np.asarray(json.loads(ROWS)["instances"], np.float32), BODIES),
            "to_tensor": calls(lambda: json_tensors.to_tensor(json_tensors.load(ROWS)["instances"], SPEC), BODIES),
        },
    )
    for title, image in (("whole numbers", IMAGE), ("fractions", IMAGE / 255)):
        for shape, data in (("nested", image.tolist()), ("flat", image.ravel().tolist())):
            body = _infer_body(data)
            compare(
                f"an /infer request, {shape} data, {title}",
                {
                    "simdjson": calls(partial(_read, body, Simdjson()), BODIES),
                    "without simdjson": calls(partial(_read, body, Orjson()), BODIES),
                    "json + to_tensor": calls(partial(_read, body, _Declining()), BODIES),
                },
            )


class _Declining(Orjson):
    """Leaves every body to the slow way."""

    def parse(self, body: bytes, key: str) -> object:  # noqa: ARG002 - it reads none
        raise ValueError


def _infer_body(data: object) -> bytes:
    item = {"name": "image", "datatype": "FP32", "shape": [1, 28, 28, 1], "data": data}
    return json.dumps({"inputs": [item]}, separators=(",", ":")).encode()


def _read(body: bytes, reader: NumberReader) -> object:
    return oip.parse_infer(body, None, MODEL, reader=reader)


if __name__ == "__main__":
    main()
