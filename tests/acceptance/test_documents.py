"""The code on README and in the how-tos is run, and answers what the pages say.

How a page's code is read is told in `tests/support/pages.py`.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import RUN_HERE, Block, Reader, blocks
from tests.support.running import ROOT, Stack, our_environment, start_up

HOWTOS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "howto").glob("*.md"))
PAGES = ["README.md", "client/README.md", *HOWTOS]
# Pages whose code has a test of its own, which names them.
ELSEWHERE = {
    "docs/howto/add-a-job-kind.md": "tests/integration/test_jobs.py",
    "docs/howto/from-tensorflow-serving.md": "tests/contract/test_pages.py",
    "docs/howto/from-triton.md": "tests/contract/test_pages.py",
    "docs/howto/mobile.md": "tests/integration/test_export_mobile.py",
}
QUICK = {"README.md", "docs/howto/ask-the-models.md"}


def code_of(page: str) -> list[Block]:
    """The blocks of a page that are in a language that can be run."""
    found = blocks((ROOT / page).read_text(encoding="utf-8"))
    return [block for block in found if block.language in RUN_HERE]


HERE = [page for page in PAGES if page not in ELSEWHERE and any(not block.reason for block in code_of(page))]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the bundled models, which pages may change."""
    folder = tmp_path_factory.mktemp("served") / "models"
    shutil.copytree(ROOT / "models", folder)
    for path in folder.glob("*/1"):  # or a worker would wait to see whether they stand still
        os.utime(path, (0, 0))
    return folder


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[Stack]:
    """The stack that the pages speak of."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MILLRACE_JOBS_FOLDER", str(models.parent / "jobs"))
        environment.setenv("MILLRACE_SERVING_PAYLOAD_SHARE", "digits=100%")
        environment.setenv("MILLRACE_SERVING_PAYLOAD_FOLDER", str(models.parent / "payloads"))
        running = start_up("--models", str(models), "--jobs", "1", "--allow-code")
    assert running.process.poll() is None, running.output
    yield running
    assert running.stop() == 0, running.output
    running.log.unlink()


@pytest.fixture
def reader(served: Stack, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    """A folder that looks like a checkout after `make up`, for whoever reads a page there."""
    for name in ("client", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "models").symlink_to(models)
    (tmp_path / "payloads").symlink_to(models.parent / "payloads")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILLRACE_URL", served.url)
    port, grpc_port = (address.rpartition(":")[2] for address in (served.url, served.grpc))
    ports = {
        "localhost": "127.0.0.1",
        "127.0.0.1:8000": f"127.0.0.1:{port}",
        "127.0.0.1:8001": f"127.0.0.1:{grpc_port}",
    }
    path = f"{tmp_path}/.venv/bin{os.pathsep}{os.environ['PATH']}"
    return Reader(tmp_path, our_environment() | {"MILLRACE_URL": served.url, "PATH": path}, ports)


@pytest.mark.parametrize("page", [pytest.param(page, marks=[] if page in QUICK else pytest.mark.slow) for page in HERE])
def test_the_code_on_a_page_answers_what_the_page_says(page: str, reader: Reader) -> None:
    read(page, reader, [block for block in code_of(page) if block.language != "js"])


@pytest.mark.skipif(not shutil.which("node"), reason="there is no Node to run JavaScript with")
def test_the_javascript_of_the_models_answers_what_the_page_says(reader: Reader) -> None:
    page = "docs/howto/ask-the-models.md"
    read(page, reader, [block for block in code_of(page) if block.language == "js"])


def read(page: str, reader: Reader, found: list[Block]) -> None:
    """Run the blocks that can be run here. Raises `AssertionError`, which names the place."""
    assert found
    for block in found:
        if not block.reason:
            try:
                reader.run(block)
            except Exception as error:
                raise AssertionError(f"{page}, line {block.line}: {error}") from error


def test_pages_that_are_run_elsewhere_are_run_there() -> None:
    for page, test in ELSEWHERE.items():
        assert Path(page).stem in (ROOT / test).read_text(encoding="utf-8"), page
    assert {*HERE} >= QUICK
    with_javascript = {page for page in PAGES if any(block.language == "js" for block in code_of(page))}
    assert with_javascript == {"docs/howto/ask-the-models.md"}
