"""Nobody is sent to other people's packages: on the public index `millrace` is not ours, and other names are free."""

import re
import tomllib

import pytest

from tests.support.running import ROOT

_FOLDERS = ["benchmarks", "client", "docs", "examples", "millrace", "ops", "serving", "training", "worker"]
_TEXTS = {".py", ".md", ".toml", ".sh", ".yml", ".yaml", ".txt", ""}
# `pip install millrace…` in any form, and an extra of ours with a name before it in place of the checkout's dot.
_HINT = re.compile(
    r"""pip3?\s+(?:\S+\s+)*?install\s[^\n]*?(?<![\w./-])millrace[\w-]*|(?<![\w./-])millrace[\w-]*\[[a-z]"""
)


@pytest.mark.parametrize(
    "text",
    [
        "pip install 'millrace[training]'",
        "pip install millrace",
        "python -m pip install --upgrade millrace-client",
        "install millrace[worker-gpu] in place of millrace[worker]",
    ],
)
def test_such_a_hint_is_found(text: str) -> None:
    assert _HINT.search(text)


@pytest.mark.parametrize(
    "text", ["pip install -e '.[training]'", "pip install './client[grpc]'", "millrace train digits"]
)
def test_a_hint_that_names_the_checkout_is_none(text: str) -> None:
    assert not _HINT.search(text)


def test_no_text_of_ours_names_a_package_of_the_public_index_as_ours() -> None:
    files = [
        file for folder in _FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in _TEXTS and file.is_file()
    ]
    files += [file for file in ROOT.iterdir() if file.suffix == ".md" or file.name == "Makefile"]
    found = [f"{file.relative_to(ROOT)}: {hint[0]}" for file in files for hint in _HINT.finditer(file.read_text())]
    assert found == []


def test_the_extras_refer_to_this_very_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    own = {
        extra
        for extras in project["optional-dependencies"].values()
        for extra in extras
        if extra.startswith("millrace")
    }
    assert {extra.partition("[")[0] for extra in own} == {project["name"]}
