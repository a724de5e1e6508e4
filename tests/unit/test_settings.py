"""Settings come from the environment that is given, and say what is wrong with it."""

import importlib.util
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from jobs.settings import JobsSettings
from millrace.jobs.settings import JobStoreSettings
from millrace.settings import CommonSettings, SettingsError, load, secret_variables
from serving.settings import ServingSettings
from worker.settings import WorkerSettings


def test_a_flag_beats_a_variable_and_a_variable_beats_the_default() -> None:
    environ = {"MILLRACE_SERVING_PORT": "9000", "MILLRACE_SERVING_HOST": "0.0.0.0", "HOME": "/"}
    settings = load(ServingSettings, environ, port=9001, host=None)
    assert (settings.port, settings.host, settings.max_queue_rows) == (9001, "0.0.0.0", 4096)


def test_both_programs_read_the_shared_variables() -> None:
    environ = {"MILLRACE_REDIS_URL": "redis://queue:6379/1"}
    for program in (ServingSettings, WorkerSettings):
        assert load(program, environ).redis_url.get_secret_value() == "redis://queue:6379/1"


def test_an_unknown_variable_names_the_nearest_known_one() -> None:
    with pytest.raises(SettingsError, match=r"MILLRACE_WORKER_DEVISE is no setting .* MILLRACE_WORKER_DEVICE"):
        load(WorkerSettings, {"MILLRACE_WORKER_DEVISE": "cuda"})


def test_the_other_programs_variables_are_left_alone() -> None:
    assert load(WorkerSettings, {"MILLRACE_SERVING_PORT": "1"}).models == Path("models")


def test_the_clients_variable_is_left_alone() -> None:
    assert load(ServingSettings, {"MILLRACE_URL": "http://127.0.0.1:8000"}).port == 8000


def test_a_bad_value_names_its_variable() -> None:
    with pytest.raises(SettingsError, match=r"MILLRACE_SERVING_PORT: .* got 'eighty'"):
        load(ServingSettings, {"MILLRACE_SERVING_PORT": "eighty"})


def test_a_queue_that_is_no_redis_url_is_named() -> None:
    with pytest.raises(SettingsError, match=r"MILLRACE_REDIS_URL: a Redis URL begins with redis://"):
        load(ServingSettings, {"MILLRACE_REDIS_URL": "localhost"})


def test_settings_that_are_wrong_show_no_password_whoever_makes_them() -> None:
    url = "redis://user:hunter2@queue:port"
    with pytest.raises(ValidationError) as caught:
        ServingSettings(redis_url=url)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_settings_that_are_printed_show_no_password() -> None:
    settings = load(ServingSettings, {"MILLRACE_REDIS_URL": "redis://user:hunter2@queue:6379/1"})
    assert "hunter2" not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"


def test_the_reference_pages_are_generated_from_the_code() -> None:
    root = Path(__file__).parent.parent.parent
    spec = importlib.util.spec_from_file_location("generate", root / "docs/generate.py")
    assert spec
    assert spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    assert generate.PAGE.read_text() == generate.settings_page(), "run: python docs/generate.py"
    redis_page = generate.REDIS_PAGE.read_text()
    assert redis_page == generate.redis_page(redis_page), "run: python docs/generate.py"


SECRETS = [
    (ServingSettings, "MILLRACE_REDIS_URL", "redis://:a@queue:6379/1"),
    (WorkerSettings, "MILLRACE_REDIS_URL", "redis://:a@queue:6379/1"),
    (JobsSettings, "MILLRACE_REDIS_URL", "redis://:a@queue:6379/1"),
    (JobsSettings, "MILLRACE_JOBS_REDIS_URL", "redis://:a@jobs:6379/1"),
    (JobStoreSettings, "MILLRACE_JOBS_REDIS_URL", "redis://:a@jobs:6379/1"),
    (JobsSettings, "MILLRACE_JOBS_CALLBACK_SECRET", "a secret with blanks "),
    (CommonSettings, "MILLRACE_REDIS_URL", "redis://:a@queue:6379/1"),
]


@pytest.mark.parametrize(("program", "name", "value"), SECRETS)
@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_is_read_from_the_file_that_its_variable_names(
    program: type[CommonSettings], name: str, value: str, ending: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes((value + ending).encode())
    settings = load(program, {f"{name}_FILE": str(tmp_path / "secret")})
    found = getattr(settings, secret_variables(program)[f"{name}_FILE"])
    assert found.get_secret_value() == value


def test_every_secret_of_every_program_has_such_a_variable() -> None:
    for program in (ServingSettings, WorkerSettings, JobsSettings, JobStoreSettings):
        secrets = {name for name, field in program.model_fields.items() if "Secret" in str(field.annotation)}
        assert set(secret_variables(program).values()) == secrets >= {"redis_url"}


def test_a_secret_in_a_variable_and_in_a_file_is_an_error_that_shows_neither(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("redis://:hunter2@queue")
    environ = {"MILLRACE_REDIS_URL": "redis://:hunter2@queue", "MILLRACE_REDIS_URL_FILE": str(tmp_path / "secret")}
    with pytest.raises(SettingsError, match="MILLRACE_REDIS_URL and MILLRACE_REDIS_URL_FILE are both set") as caught:
        load(ServingSettings, environ)
    assert "hunter2" not in str(caught.value)


def test_a_file_without_a_usable_secret_is_named_and_its_content_is_not_shown(tmp_path: Path) -> None:
    missing, wrong, binary, large = (tmp_path / name for name in ("missing", "wrong", "binary", "large"))
    wrong.write_text("hunter2")
    binary.write_bytes(b"hunter2\xff")
    large.write_text("hunter2" * 20_000)
    for path, words in (
        (missing, f"MILLRACE_REDIS_URL_FILE: {missing} cannot be read"),
        (tmp_path, f"MILLRACE_REDIS_URL_FILE: {tmp_path} cannot be read"),
        (wrong, "MILLRACE_REDIS_URL: a Redis URL begins with"),
        (binary, f"MILLRACE_REDIS_URL_FILE: {binary} is not UTF-8"),
        (large, f"MILLRACE_REDIS_URL_FILE: {large} has more than"),
    ):
        with pytest.raises(SettingsError) as caught:
            load(ServingSettings, {"MILLRACE_REDIS_URL_FILE": str(path)})
        assert str(caught.value).startswith(words)
        assert "hunter2" not in str(caught.value)


def test_what_is_no_secret_has_no_file() -> None:
    with pytest.raises(SettingsError, match="MILLRACE_SERVING_PORT_FILE is no setting"):
        load(ServingSettings, {"MILLRACE_SERVING_PORT_FILE": "/dev/null"})


def test_the_clients_variables_are_nobody_elses_business() -> None:
    load(ServingSettings, {"MILLRACE_API_KEY": "a", "MILLRACE_CA_FILE": "b", "MILLRACE_CLIENT_CERT": "c"})
