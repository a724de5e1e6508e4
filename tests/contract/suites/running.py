"""Runs the tests of a suite with pytest, and holds their outcomes against what is known of them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.contract.suites import sources
from tests.support.running import ROOT

# A test's name -> "passed", or the first line of why it did not.
Outcomes = dict[str, str]


def beside_stack(
    models: Path, folder: Path, arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float = 600
) -> Outcomes:
    """What came of the unit tests that the arguments name, a file first, run in the folder beside a stack."""
    report = folder / "report.json"
    program = [str(sources.place(sources.PYTHON)), str(Path(__file__).with_name("unittests.py")), str(report)]
    inside = [sys.executable, "-m", "tests.contract.suites.namespace", str(models), str(folder), str(folder / "up.log")]
    path = os.pathsep.join([str(ROOT), str(ROOT / "client")])
    command = ["unshare", "--net", *inside, *program, *arguments]
    return _reported(command, ROOT, {"PYTHONPATH": path, **environment}, report, timeout_s)


def alone(
    python: Path, folder: Path, arguments: Sequence[str], environment: Mapping[str, str], timeout_s: float = 900
) -> Outcomes:
    """What came of the unit tests that the arguments name, run in the folder by an interpreter of their own."""
    report = folder / "report.json"
    command = [str(python), str(Path(__file__).with_name("unittests.py")), str(report), *arguments]
    return _reported(command, folder, environment, report, timeout_s)


def _reported(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str], report: Path, timeout_s: float
) -> Outcomes:
    """What the command wrote into the report; what it printed lies beside it."""
    ran = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    (report.parent / "suite.log").write_text(ran.stdout + ran.stderr)
    assert report.exists(), ran.stdout + ran.stderr
    found: Outcomes = json.loads(report.read_text())
    return found


def check(found: Outcomes, known: Mapping[str, str]) -> None:
    """Every test passes but those that are known not to, each with its reason; and these do not pass."""
    unexpected = {name: outcome for name, outcome in found.items() if outcome != "passed" and name not in known}
    mended = [name for name in known if found.get(name) == "passed"]
    assert found, "no test ran"
    assert not unexpected, "\n".join(f"{name}: {outcome}" for name, outcome in unexpected.items())
    assert not mended, f"these pass now, so they are known no more: {mended}"
