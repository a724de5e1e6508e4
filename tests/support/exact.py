"""A model whose answer identifies its request exactly, and that breaks when it is asked to.

`y` = 3 `x` + 7, INT64 [-1, 1] both, so that an answer that went to the wrong caller is seen. Some `x` break it:
"""

import platform
from pathlib import Path

import msgspec
import onnx
from onnx import TensorProto, helper

from millrace.artifacts.manifest import FILE_NAME, Batching, Manifest

RAISES = -1  # divides by zero, which ONNX Runtime reports
KILLS = -2  # divides the least integer by -1, at which an x86 processor stops the process (SIGFPE)
WRONG_ROWS = -3  # leaves its row out of the answer
_TURNS_PER_S = 1_500_000  # of the loop that passes the time, roughly
_SLOWEST = -1_000  # from here down, x is how many turns the batch takes, negative


IS_KILLABLE = platform.machine() == "x86_64"


def slow(seconds: float) -> int:
    """An `x` whose batch takes about that long."""
    return min(_SLOWEST, -int(seconds * _TURNS_PER_S))


def answer(x: int) -> int:
    """The right `y`."""
    return 3 * x + 7


def make(root: Path, name: str = "exact", *, batch_s: float = 0.0) -> None:
    """Put version 1 of the model into a repository; each of its batches takes about `batch_s` more than it must."""
    constants = {
        "zero": [0],
        "one": [1],
        "minus": [-1],
        "three": [3],
        "seven": [7],
        "least": [-(2**63)],
        "raises": [RAISES],
        "kills": [KILLS],
        "wrong_rows": [WRONG_ROWS],
        "slowest": [_SLOWEST],
        "always": [int(batch_s * _TURNS_PER_S)],
    }
    node = helper.make_node
    nodes = [
        # RAISES: 1 / 0
        node("Equal", ["x", "raises"], ["is_raising"]),
        node("Where", ["is_raising", "zero", "one"], ["divisor"]),
        node("Div", ["one", "divisor"], ["first"]),
        # KILLS: least / -1
        node("Equal", ["x", "kills"], ["is_killing"]),
        node("Where", ["is_killing", "least", "one"], ["dividend"]),
        node("Where", ["is_killing", "minus", "one"], ["by"]),
        node("Div", ["dividend", "by"], ["second"]),
        # slow: as many turns of an empty loop as the slowest row asks for
        node("Less", ["x", "slowest"], ["is_slow"]),
        node("Neg", ["x"], ["wanted"]),
        node("Where", ["is_slow", "wanted", "zero"], ["turns_of_rows"]),
        node("ReduceMax", ["turns_of_rows"], ["turns_asked"], keepdims=0),
        node("Add", ["turns_asked", "always"], ["turns_1d"]),
        node("Squeeze", ["turns_1d"], ["turns"]),
        node("Loop", ["turns", "", "zero"], ["passed"], body=_turn()),
        # y = 3 x + 7 (first and second are 1 in a row that breaks nothing)
        node("Mul", ["x", "three"], ["tripled"]),
        node("Mul", ["tripled", "first"], ["with_first"]),
        node("Mul", ["with_first", "second"], ["with_second"]),
        node("Add", ["with_second", "passed"], ["after_the_loop"]),
        node("Add", ["after_the_loop", "seven"], ["all_rows"]),
        # WRONG_ROWS: without those rows
        node("Equal", ["x", "wrong_rows"], ["is_left_out"]),
        node("Not", ["is_left_out"], ["is_kept"]),
        node("Squeeze", ["is_kept", "one"], ["kept"]),
        node("Compress", ["all_rows", "kept"], ["y"], axis=0),
    ]
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, ["batch", 1])],
        [helper.make_tensor(key, TensorProto.INT64, [1], value) for key, value in constants.items()],
    )
    folder = root / name / "1"
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / "model.onnx")
    # The slowest row passes the time of all, which the file shows as rows that mix; no answer depends on it.
    (folder / FILE_NAME).write_bytes(msgspec.json.encode(Manifest(batching=Batching(rows_are_independent=True))))


def _turn() -> onnx.GraphProto:
    """The body of a loop that adds zero to zero."""
    value = helper.make_tensor_value_info
    return helper.make_graph(
        [helper.make_node("Identity", ["goes_on"], ["still"]), helper.make_node("Add", ["sum", "sum"], ["sum_after"])],
        "turn",
        [
            value("turn", TensorProto.INT64, []),
            value("goes_on", TensorProto.BOOL, []),
            value("sum", TensorProto.INT64, [1]),
        ],
        [value("still", TensorProto.BOOL, []), value("sum_after", TensorProto.INT64, [1])],
    )
