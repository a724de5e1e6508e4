"""What all programs' settings share: two variables, and an error for a variable that nobody knows.

Each program has one `settings.py` with one class, built once in its entry point from the environment it is given.
Shared variables begin with MILLRACE_, a program's own with MILLRACE_SERVING_ or MILLRACE_WORKER_. A value that may hold
a password is a `SecretStr`: its text is a row of stars, and no error repeats it. Each such variable NAME has a sister
NAME_FILE: the path of a file with the value, as Docker and Kubernetes mount secrets.
"""

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from millrace.broker.discovery import servers

_PROGRAMS = ("MILLRACE_SERVING_", "MILLRACE_WORKER_", "MILLRACE_JOBS_")
# The client's own, which any program may find in its environment.
_OF_THE_CLIENT = ("MILLRACE_URL", "MILLRACE_API_KEY", "MILLRACE_CA_FILE", "MILLRACE_CLIENT_")
_FILE = "_FILE"
_MOST_SECRET_BYTES = 65_536
# What may be a password or a signature in a URL: all before an @, and all behind a question mark.
_CREDENTIALS = re.compile(r"(?<=://).*(?=@)|(?<=\?).+", re.DOTALL)


class SettingsError(Exception):
    """A variable that is unknown, or whose value does not fit; the text names it."""


class CommonSettings(BaseModel):
    """The settings that every program has. `prefix` begins the names of a program's own variables.

    `variable_names` has fields whose variables are called otherwise. A class whose `knows_all` is False is a part of
    another one's settings, so it says nothing of variables with its prefix that it does not know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
    prefix: ClassVar[str] = "MILLRACE_"
    variable_names: ClassVar[Mapping[str, str]] = {}
    knows_all: ClassVar[bool] = True

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Where the queue is: a redis://, rediss:// (TLS) or unix:// URL, with user, password and database, "
        "or one of Sentinels, redis+sentinel://host:26379,host:26379/master/0, "
        "or of a Cluster, redis+cluster://host:6379,host:6379 (docs/reference/redis-keys.md).",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important events that are logged."
    )

    @field_validator("redis_url")
    @classmethod
    def _is_a_redis_url(cls, url: SecretStr) -> SecretStr:
        servers(url.get_secret_value())  # raises ValueError, which says what is wrong
        return url


_S = TypeVar("_S", bound=CommonSettings)


def variables(settings: type[CommonSettings]) -> dict[str, str]:
    """Each field by the name of its environment variable."""
    shared = CommonSettings.model_fields
    return {
        settings.variable_names.get(name)
        or (CommonSettings.prefix if name in shared else settings.prefix) + name.upper(): name
        for name in settings.model_fields
    }


def secret_variables(settings: type[CommonSettings]) -> dict[str, str]:
    """The fields that hold secrets, by the name of the variable that names a file with the value: NAME_FILE."""
    secrets = _secrets(settings)
    return {name + _FILE: field for name, field in variables(settings).items() if field in secrets}


def load(settings: type[_S], environ: Mapping[str, str], **given: object) -> _S:
    """The settings: what is `given` (None counts as not given), else the variable, else the default.

    Raises `SettingsError`.
    """
    known, files = variables(settings), secret_variables(settings)
    _check_names(settings, environ, [*known, *files])
    values: dict[str, object] = {field: environ[name] for name, field in known.items() if name in environ}
    values |= {field: _secret(name, environ) for name, field in files.items() if name in environ}
    try:
        return settings.model_validate(values | {name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        name = next((name for name, field in known.items() if field == first["loc"][0]), str(first["loc"]))
        got = "" if known.get(name) in _secrets(settings) else f", got {_shown(first['input'])}"
        raise SettingsError(f"{name}: {first['msg'].removeprefix('Value error, ')}{got}") from None


def secret(name: str, environ: Mapping[str, str]) -> str | None:
    """The value of one variable that holds a secret, or what is in the file that NAME_FILE names; None for neither.

    Raises `SettingsError`.
    """
    return _secret(name + _FILE, environ) if name + _FILE in environ else environ.get(name)


def _secret(file_variable: str, environ: Mapping[str, str]) -> str:
    """What is in the file that the variable names, without the line break at its end."""
    name = file_variable.removesuffix(_FILE)
    if name in environ:
        raise SettingsError(f"{name} and {file_variable} are both set; set one of them")
    try:
        with Path(environ[file_variable]).open("rb") as file:
            content = file.read(_MOST_SECRET_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{file_variable}: {environ[file_variable]} cannot be read ({error.strerror})") from None
    if len(content) > _MOST_SECRET_BYTES:
        raise SettingsError(f"{file_variable}: {environ[file_variable]} has more than {_MOST_SECRET_BYTES} bytes")
    try:
        return content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise SettingsError(f"{file_variable}: {environ[file_variable]} is not UTF-8 text") from None


def _check_names(settings: type[CommonSettings], environ: Mapping[str, str], known: list[str]) -> None:
    others = tuple(program for program in _PROGRAMS if program != settings.prefix or not settings.knows_all)
    for name in environ:
        if name.startswith("MILLRACE_") and not name.startswith((*others, *_OF_THE_CLIENT)) and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0)
            raise SettingsError(f"{name} is no setting of this program; did you mean {near[0]}?")


def _shown(value: object) -> str:
    """The value for an error, without the credentials of a URL."""
    return repr(_CREDENTIALS.sub("…", value) if isinstance(value, str) and "://" in value else value)


def _secrets(settings: type[CommonSettings]) -> set[str]:
    """The fields whose values are shown nowhere."""
    return {name for name, field in settings.model_fields.items() if field.annotation in (SecretStr, SecretStr | None)}
