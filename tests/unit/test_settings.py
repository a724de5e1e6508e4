"""Settings come from the environment that is given, and say what is wrong with it."""

import importlib.util
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from millrace.settings import SettingsError, load
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
