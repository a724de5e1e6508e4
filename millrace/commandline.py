"""Command lines whose errors repeat no password."""

import argparse
import re
from typing import NoReturn

from millrace.broker.discovery import without_secrets
from millrace.devices import device_name

_URL = re.compile(r"[A-Za-z+]+://\S*")
_PART_OF_A_URL = re.compile(r"\S+@\S*")
REDIS_URL_HELP = "where the queue is; everybody on this machine sees a password here, so better set MILLRACE_REDIS_URL"


class Parser(argparse.ArgumentParser):
    """A parser whose error messages show of a URL only where it leads, and nothing else that has an @."""

    def error(self, message: str) -> NoReturn:
        """See `argparse.ArgumentParser`."""
        message = _URL.sub(lambda url: without_secrets(url[0].rstrip("'\"")), message)
        super().error(_PART_OF_A_URL.sub("…", message))


def device(text: str) -> str:
    """The name of a device, as an option's `type`."""
    try:
        return device_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, got {text!r}") from None
