"""Command lines: help with defaults and examples, and errors that repeat no password."""

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from pydantic import SecretStr

from millrace.broker.discovery import without_secrets
from millrace.devices import device_name
from millrace.settings import CommonSettings, variables

_URL = re.compile(r"[A-Za-z+]+://\S*")
_PART_OF_A_URL = re.compile(r"\S+@\S*")
_WIDTH = 78
REDIS_URL_HELP = (
    "the Redis of the queue; other users of this machine see a password given here, but not in the variable"
)


class Parser(argparse.ArgumentParser):
    """A parser whose error messages show of a URL only where it leads, and nothing else that has an @.

    `examples` are commands to copy, at the end of the help; the description is wrapped as usual.
    """

    def __init__(self, *, description: str = "", epilog: str = "", examples: Sequence[str] = (), **more: Any) -> None:
        paragraphs = [textwrap.fill(epilog, _WIDTH)] if epilog else []
        if examples:
            paragraphs.append("\n".join(["examples:", *[f"  {example}" for example in examples]]))
        super().__init__(
            description=textwrap.fill(description, _WIDTH),
            epilog="\n\n".join(paragraphs),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **more,
        )

    def add_setting(self, option: str, settings: type[CommonSettings], text: str, **more: Any) -> None:
        """An option that stands for a setting of the same name; its help names the default and the variable."""
        field = option.lstrip("-").replace("-", "_")
        default = settings.model_fields[field].get_default(call_default_factory=True)
        shown = default.get_secret_value() if isinstance(default, SecretStr) else default
        (variable,) = [name for name, of in variables(settings).items() if of == field]
        said = "" if shown in (None, False) else f"default {shown}; "
        self.add_argument(option, default=None, help=f"{text} ({said}{variable})".replace("%", "%%"), **more)

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
