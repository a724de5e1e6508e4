"""The options of every command that say which server is asked, and how."""

import argparse
from pathlib import Path

from millrace_client.client import DEFAULT_TIMEOUT_S, Client
from millrace_client.credentials import read_key
from millrace_client.endpoint import DEFAULT_GRPC_URL, DEFAULT_URL, URL_VARIABLE


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the options to the parser of a command."""
    parser.add_argument(
        "--url",
        help=f"the server, http(s):// or grpc(s):// (default: {URL_VARIABLE}, or else {DEFAULT_URL}; for gRPC "
        f"{DEFAULT_GRPC_URL})",
    )
    _add_credentials(parser)
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
    _add_credentials(parser)
    return parser


def client_of(options: argparse.Namespace) -> Client:
    """The client that the options ask for. Raises `ValueError`, `ModuleNotFoundError`."""
    file, own, key = (getattr(options, name, None) for name in ("api_key_file", "client_cert", "client_key"))
    return Client(
        options.url,
        transport=options.transport,
        timeout_s=options.timeout,
        api_key=read_key(file) if file else None,
        ca_file=getattr(options, "ca_file", None),
        certificate=(own, key) if own and key else own,
    )


def _add_credentials(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help="an API key (default: MILLRACE_API_KEY, MILLRACE_API_KEY_FILE)",
    )
    parser.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="whom to trust, PEM (default: MILLRACE_CA_FILE, or the system)"
    )
    parser.add_argument(
        "--client-cert", type=Path, metavar="FILE", help="the client's certificate, PEM (default: MILLRACE_CLIENT_CERT)"
    )
    parser.add_argument(
        "--client-key", type=Path, metavar="FILE", help="its key, if it is not in there (default: MILLRACE_CLIENT_KEY)"
    )
