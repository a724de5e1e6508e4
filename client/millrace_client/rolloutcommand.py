"""`millrace rollout MODEL VERSION`: roll a version out step by step, or go back."""

import argparse
import contextlib
from collections.abc import Callable
from typing import Any

from millrace_client.client import Client
from millrace_client.connectionoptions import client_of
from millrace_client.errors import InvalidRequest, MillraceError
from millrace_client.rollout import Rollout
from millrace_client.rolloutplan import Plan, conditions_of, least_of, percent_of, seconds_of, starting_with, steps_of


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the arguments to the parser."""
    parser.add_argument("model", help="the model's name")
    parser.add_argument("version", type=int, help="the version that is to get the requests; it must be available")
    _add(parser, "--canary", percent_of, None, "PERCENT", "the first share (default: that of --steps)")
    conditions = "what must hold to go on: p50 to p999 in ms or s, errors, agreement (default: %(default)s)"
    _add(parser, "--promote-if", conditions_of, "p99<100ms, errors<0.1%", "CONDITIONS", conditions)
    _add(parser, "--steps", steps_of, "5,25,100", "PERCENTS", "shares of the requests (default: %(default)s)")
    _add(parser, "--every", seconds_of, "2m", "TIME", "how long each step is watched (default: %(default)s)")
    copied = "the share of the other versions' requests that are copied to compare answers (default: %(default)s)"
    _add(parser, "--shadow", percent_of, "10%", "PERCENT", copied)
    least = "requests, or rows that were compared, to decide by (default: %(default)s)"
    _add(parser, "--least", least_of, "50", "N", least)
    parser.add_argument(
        "--metrics",
        action="append",
        default=[],
        metavar="URL",
        help="an API whose metrics count, where --url leads to several; may be repeated (default: --url)",
    )


def run(client: Client, options: argparse.Namespace) -> None:
    """Roll out. Raises `SystemExit` with status 1 where the version was not promoted."""
    plan = Plan(
        version=options.version,
        steps=starting_with(options.canary, options.steps),
        every_s=options.every,
        conditions=options.promote_if,
        shadow_percent=options.shadow,
        least=options.least,
    )
    with contextlib.ExitStack() as kept:
        others = [kept.enter_context(client_of(_at(options, url))) for url in options.metrics]
        if not Rollout(_Server(client, others or [client]), options.model, plan, _say).run():
            raise SystemExit(1)


class _Server:
    """See `RolloutServer`."""

    def __init__(self, client: Client, counting: list[Client]) -> None:
        self._client = client
        self._counting = counting

    def traffic(self, model: str) -> dict[str, Any]:
        """See `RolloutServer`."""
        return self._client.traffic(model)

    def set_traffic(self, model: str, document: dict[str, Any]) -> dict[str, Any]:
        """See `RolloutServer`."""
        return self._client.set_traffic(model, document)

    def available(self, model: str) -> list[int]:
        """See `RolloutServer`."""
        versions = [version for listed in self._client.models() if listed.name == model for version in listed.versions]
        if not versions:
            raise InvalidRequest(f"there is no model {model}")
        return [int(version.version) for version in versions if version.state == "AVAILABLE"]

    def metrics(self) -> list[str | None]:
        """See `RolloutServer`."""
        return list(map(_metrics, self._counting))


def _at(options: argparse.Namespace, url: str) -> argparse.Namespace:
    """The same options for another server."""
    return argparse.Namespace(**{**vars(options), "url": url})


def _metrics(client: Client) -> str | None:
    try:
        return client.metrics()
    except MillraceError:
        return None


def _say(text: str) -> None:
    print(text, flush=True)


def _add(
    parser: argparse.ArgumentParser,
    option: str,
    read: Callable[[str], object],
    default: str | None,
    what: str,
    text: str,
) -> None:
    """Add an option whose value is read by a function that raises `ValueError` with words."""

    def checked(given: str) -> object:
        try:
            return read(given)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument(option, type=checked, default=default, metavar=what, help=text)
