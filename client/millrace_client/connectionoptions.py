"""The options of every command that say which server is asked, and how."""

import argparse

from millrace_client.client import DEFAULT_TIMEOUT_S
from millrace_client.endpoint import DEFAULT_GRPC_URL, DEFAULT_URL, URL_VARIABLE


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of a command."""
    parser.add_argument(
        "--url",
        help=f"the server, http(s):// or grpc(s):// (default: {URL_VARIABLE}, or else {DEFAULT_URL}; for gRPC "
        f"{DEFAULT_GRPC_URL})",
    )
    parser.add_argument(
        "--transport",
        choices=("json", "binary", "grpc"),
        help="how tensors travel (default: json, or grpc as the URL says)",
    )
    parser.add_argument(
        "--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="S", help="seconds to wait (default: %(default)g)"
    )


def connection_of_a_part() -> argparse.ArgumentParser:
    """The same options for what follows a command; what stands before it holds where they are left out."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--url", help=f"the server, http(s):// (default: {URL_VARIABLE}, or else {DEFAULT_URL})")
    parser.add_argument(
        "--timeout", type=float, metavar="S", help="seconds for one request that carries no file (default: 30)"
    )
    return parser
