"""Writing and reading blocks of 1, 16 and 64 requests, one 28x28 image each: what a request costs.

.venv/bin/python -m benchmarks.micro.codec
"""

from functools import partial

import numpy as np

from benchmarks.micro.timing import calls, compare
from millrace.protocol.codec import decode_reply, decode_request, encode_reply, encode_request
from millrace.protocol.messages import ReplyBlock, ReplyItem, RequestBlock, RequestItem
from millrace.protocol.tensors import Tensor

SIZES = (1, 16, 64)
BLOCKS = 2000


def request(rows: int) -> RequestBlock:
    """A block of so many requests for one row each."""
    return RequestBlock(
        reply_to="millrace:replies:api",
        model="digits",
        version=1,
        signature="serving_default",
        sent_ms=1.0,
        items=tuple(RequestItem(number, f"{number:032x}", 1, 1) for number in range(rows)),
        tensors={"image": Tensor.from_numpy(np.zeros((rows, 28, 28, 1), np.float32))},
    )


def reply(rows: int) -> ReplyBlock:
    """The answer to that block."""
    return ReplyBlock(
        worker="worker",
        compute_ms=1.0,
        batch_rows=rows,
        items=tuple(ReplyItem(number, 1, 0.1, 0.1) for number in range(rows)),
        tensors={"probabilities": Tensor.from_numpy(np.zeros((rows, 10), np.float32))},
    )


def main() -> None:
    """Both kinds of block, both ways."""
    for rows in SIZES:
        asked, answered = request(rows), reply(rows)
        asked_bytes, answered_bytes = encode_request(asked), encode_reply(answered)
        number = BLOCKS // rows + 100
        compare(
            f"a request's share of a block of {rows}",
            {
                "encode_request": calls(partial(encode_request, asked), number, rows),
                "decode_request": calls(partial(decode_request, asked_bytes), number, rows),
                "encode_reply": calls(partial(encode_reply, answered), number, rows),
                "decode_reply": calls(partial(decode_reply, answered_bytes), number, rows),
            },
        )


if __name__ == "__main__":
    main()
