"""What all programs' settings share: two variables, and an error for a variable that nobody knows.

Each program has one `settings.py` with one class, read once in its entry point. Shared variables begin with MILLRACE_,
a program's own with MILLRACE_SERVING_ or MILLRACE_WORKER_.
"""

import difflib
from collections.abc import Mapping
from typing import Literal, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

_PROGRAMS = ("MILLRACE_SERVING_", "MILLRACE_WORKER_")


class SettingsError(Exception):
    """A variable that is unknown, or whose value does not fit; the text names it."""


class CommonSettings(BaseSettings):
    """The settings that every program has."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    redis_url: str = Field(
        "redis://127.0.0.1:6379/0",
        validation_alias="MILLRACE_REDIS_URL",
        description="Where the queue is: a redis://, rediss:// (TLS) or unix:// URL, with user, password and database.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", validation_alias="MILLRACE_LOG_LEVEL", description="The least important events that are logged."
    )


_S = TypeVar("_S", bound=CommonSettings)


def variables(settings: type[CommonSettings]) -> dict[str, str]:
    """The environment variable of each field, by field name."""
    prefix = str(settings.model_config.get("env_prefix", ""))
    return {
        name: str(field.validation_alias or prefix + name.upper()) for name, field in settings.model_fields.items()
    }


def load(settings: type[_S], environ: Mapping[str, str], **given: object) -> _S:
    """The settings: what is `given` (None counts as not given), else the variable, else the default.

    Raises `SettingsError`.
    """
    prefix = str(settings.model_config.get("env_prefix", ""))
    others = tuple(program for program in _PROGRAMS if program != prefix)
    known = set(variables(settings).values())
    for name in environ:
        if name.startswith("MILLRACE_") and not name.startswith(others) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise SettingsError(f"{name} is no setting of this program; did you mean {near[0]}?")
    try:
        return settings(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"{variables(settings).get(where, where)}: {first['msg']}, got {first['input']!r}") from None
