"""The pages for those who come from other servers: their code is run as it stands there, but for the ports."""

import doctest
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.running import ROOT, Stack, start_up

PAGES = {
    "from-tensorflow-serving": "models.config",
    "from-triton": "simple/config.pbtxt",
}
_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class Page:
    """The code on a page, by language, in its order."""

    def __init__(self, name: str) -> None:
        self.name = name
        text = (ROOT / "docs" / "howto" / f"{name}.md").read_text(encoding="utf-8")
        self.blocks: list[tuple[str, str]] = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)

    def code(self, language: str) -> list[str]:
        return [code for found, code in self.blocks if found == language]


@pytest.fixture(scope="module", params=PAGES)
def page(request: pytest.FixtureRequest) -> Page:
    return Page(request.param)


@pytest.fixture(scope="module")
def served(page: Page, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack that the page's own command starts, on the models and the configuration that it shows."""
    folder = tmp_path_factory.mktemp(page.name)
    for name in ("half_plus_two", "simple"):
        shutil.copytree(repository / name, folder / "models" / name)
    if page.name == "from-tensorflow-serving":  # which names a second version
        shutil.copytree(repository / "half_plus_two" / "00000001", folder / "models" / "half_plus_two" / "2")
    (config,) = page.code("pbtxt")
    (folder / "models" / PAGES[page.name]).write_text(config)
    (command,) = page.code("sh")
    program, verb, *arguments = shlex.split(re.sub(r"--(grpc-)?port \d+", "", command))
    assert (program, verb, arguments[:2]) == ("millrace", "up", ["--models", "models"])
    running = start_up("--models", str(folder / "models"), *arguments[2:])
    assert running.process.poll() is None, running.output
    yield running
    assert running.stop() == 0, running.output
    running.log.unlink()


@pytest.fixture
def placed(served: Stack) -> Callable[[str], str]:
    """Puts the ports of the stack in the place of the default ones."""
    port = served.url.rpartition(":")[2]
    return lambda code: code.replace("localhost:8000", f"localhost:{port}").replace("localhost:8001", served.grpc)


def test_every_kind_of_code_is_one_that_is_run_here(page: Page) -> None:
    assert {language for language, _ in page.blocks} <= {"console", "diff", "pbtxt", "pycon", "sh"}


def test_the_line_to_change_is_the_one_that_is_run(page: Page) -> None:
    for change in page.code("diff"):
        (new,) = re.findall(r"^\+.*(localhost:\d+)", change, re.MULTILINE)
        assert any(new in code for code in page.code("pycon") + page.code("console"))


def test_the_commands_and_sessions_answer_what_the_page_says(page: Page, placed: Callable[[str], str]) -> None:
    session: dict[str, object] = {}
    for language, code in page.blocks:
        if language == "console":
            _run_commands(placed(code))
        if language == "pycon":
            _run_session(placed(code), session, page.name)


def _run_commands(code: str) -> None:
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", code, re.MULTILINE):
        run = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
        met = doctest.OutputChecker().check_output(expected.strip(), run.stdout.strip(), _OPTIONS)
        assert met, f"{command}\n{run.stdout}{run.stderr}\nand not\n{expected}"


def _run_session(code: str, session: dict[str, object], name: str) -> None:
    test = doctest.DocTestParser().get_doctest(code, session, name, None, None)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=_OPTIONS)
    runner.run(test, out=report.append, clear_globs=False)
    assert runner.failures == 0, "".join(report)
    session.update(test.globs)
