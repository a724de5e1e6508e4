"""The `millrace` command and the logs."""

import json
import logging
import sys
from importlib.metadata import EntryPoint

import pytest

from millrace import __main__ as command
from millrace.logs import JsonFormatter


def test_it_lists_what_the_installed_roles_bring(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    printed = capsys.readouterr().out
    for name in ("up", "dead-letters", "serve", "work", "train", "predict", "similar", "models"):
        assert f"millrace {name}\n" in printed


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["fly"]) == 2
    assert "millrace: no command 'fly'" in capsys.readouterr().err


def test_a_role_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = EntryPoint("train", "no_such_module_here:main [training]", "millrace.commands")
    monkeypatch.setattr(command, "entry_points", lambda group: [point])
    assert command.main(["train"]) == 2
    assert (
        "no_such_module_here is not installed; install it with: pip install 'millrace[training]'"
        in capsys.readouterr().err
    )


def test_its_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("millrace 0.")


def test_a_log_line_is_one_json_object_with_what_the_caller_gave() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, __file__, 1, "it %s", ("broke",), sys.exc_info())
    record.request_id = "r-1"
    line = JsonFormatter("worker").format(record)
    event = json.loads(line)
    assert "\n" not in line
    assert (event["event"], event["level"], event["program"], event["request_id"]) == (
        "it broke",
        "error",
        "worker",
        "r-1",
    )
    assert "ValueError: why" in event["trace"]
