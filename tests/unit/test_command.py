"""The `millrace` command and the logs."""

import json
import logging
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from millrace import __main__ as command
from millrace.logs import JsonFormatter


def test_it_lists_what_the_installed_roles_bring(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    printed = capsys.readouterr().out.partition("Examples:")[0]
    for name in ("up", "dead-letters", "serve", "work", "train", "predict", "similar", "models"):
        (line,) = [line for line in printed.splitlines() if line.startswith(f"  millrace {name} ")]
        assert len(line.split()) > 4, "a sentence of what it does"


HELP = [*command.COMMANDS, "jobs submit", "jobs list", "jobs result", "dead-letters list", "dead-letters drop"]


@pytest.mark.parametrize("name", HELP)
def test_each_command_says_what_it_does_and_how_it_is_called(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([*name.split(), "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: millrace {name} ")
    paragraphs = text.split("\n\n")
    assert paragraphs[1].endswith("."), "a sentence of what it does"
    assert " " in name or f"millrace {name}" in text.partition("examples:")[2]
    option = re.compile(r"^  (-\S.*)\n(?! {10})", re.MULTILINE)  # without a help text on the next line
    assert [line for line in option.findall(text) if "  " not in line] == []


def test_a_command_of_the_client_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "entry_points", lambda group: [])
    assert command.main(["predict", "digits", "seven.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("millrace predict: the client is not installed; install it from Millrace's checkout with: ")
    assert line.endswith("-m pip install -e ./client")


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["fly"]) == 2
    assert "millrace: no command 'fly'" in capsys.readouterr().err


def test_a_role_that_is_not_installed_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    point = EntryPoint("train", "no_such_module_here:main [training]", "millrace.commands")
    monkeypatch.setattr(command, "entry_points", lambda group: [point])
    assert command.main(["train"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("millrace train: no_such_module_here is not installed; install it from Millrace's checkout")
    assert line.endswith("-m pip install -e '.[training]'")


REQUIREMENTS = "Requires-Dist: no-such-thing>=1; extra == 'training'\nRequires-Dist: numpy; extra == 'worker'\n"


@pytest.mark.parametrize(("extra", "is_explained"), [("training", True), ("worker", False)])
def test_what_a_running_command_misses_is_explained_where_its_extra_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], extra: str, is_explained: bool
) -> None:
    (tmp_path / "late.py").write_text("def main(arguments):\n    import no_such_thing\n")
    info = tmp_path / "late_command-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: late-command\nVersion: 1\n{REQUIREMENTS}")
    (info / "entry_points.txt").write_text(f"[millrace.commands]\nlate = late:main [{extra}]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    if is_explained:
        assert command.main(["late"]) == 2
        assert "no_such_thing is not installed; install it" in capsys.readouterr().err
    else:  # what it lacks is nothing of ours
        with pytest.raises(ModuleNotFoundError):
            command.main(["late"])


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
