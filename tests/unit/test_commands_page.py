"""The page about commands names every command and every option of ours."""

import argparse
from pathlib import Path

import pytest

from millrace.__main__ import COMMANDS
from ops import options
from worker.check import command

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")


def test_every_command_is_on_the_page() -> None:
    table = PAGE.partition("## ")[0]
    assert [name for name in COMMANDS if f"`millrace {name}`" not in table and f"`{name}`" not in table] == []


@pytest.mark.parametrize(
    ("title", "parser"), [("## millrace up", options.parser({})), ("## millrace check", command.parser())]
)
def test_every_option_is_in_its_section(title: str, parser: argparse.ArgumentParser) -> None:
    section = PAGE.partition(title)[2].partition("\n## ")[0]
    found = [action.option_strings[-1] for action in parser._actions if action.option_strings]  # noqa: SLF001
    assert [option for option in found if option != "--help" and f"`{option}`" not in section] == []
