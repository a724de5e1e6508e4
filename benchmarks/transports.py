"""What a prediction takes over each of the client's transports, one after the other, on a running stack:

    make up
    .venv/bin/python -m benchmarks.transports

One image (FP32, 28x28) and 1,000 of them in one request, by one caller: the client's work, the network's on this
machine, the server's and the model's are all in the time. The answers of all transports are compared first.
"""

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from millrace_client import Client
from millrace_client.endpoint import DEFAULT_GRPC_URL, DEFAULT_URL

from benchmarks.micro.timing import calls, compare

_CALLS = {1: 200, 1000: 3}  # in each round, by rows


def main() -> None:
    """Print a table for each number of rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transports")
    parser.add_argument("--http", default=DEFAULT_URL, help="(default: %(default)s)")
    parser.add_argument("--grpc", default=DEFAULT_GRPC_URL, help="(default: %(default)s)")
    options = parser.parse_args()
    with Client(options.http) as json, Client(options.http, transport="binary") as binary, Client(options.grpc) as grpc:
        clients = {"JSON": json, "binary": binary, "gRPC": grpc}
        for rows, number in _CALLS.items():
            images = np.random.default_rng(1).uniform(0, 255, (rows, 28, 28, 1)).astype(np.float32)
            _check(clients, images)
            ways = {name: calls(_prediction(client, images), number) for name, client in clients.items()}
            compare(f"digits, {rows:,} rows a request", ways)


def _prediction(client: Client, images: npt.NDArray[np.float32]) -> Callable[[], object]:
    return lambda: client.predict("digits", images)


def _check(clients: dict[str, Client], images: npt.NDArray[np.float32]) -> None:
    """Raises `AssertionError` where one answers something else."""
    first, *others = [client.predict("digits", images).outputs["probabilities"] for client in clients.values()]
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-5)


if __name__ == "__main__":
    main()
