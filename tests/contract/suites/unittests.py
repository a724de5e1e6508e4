"""Runs the unit tests of a file and writes what came of each as JSON: `python unittests.py REPORT FILE [TEST…]`.

It runs in the suite's own interpreter, so it imports nothing of ours.
"""

import importlib
import json
import os
import sys
import traceback
import unittest
from pathlib import Path
from typing import Any

OUTCOMES: dict[str, str] = {}


class Result(unittest.TextTestResult):
    """Keeps the first line of why each test did not pass."""

    def addSuccess(self, test: Any) -> None:
        """See `unittest.TestResult`."""
        super().addSuccess(test)
        OUTCOMES.setdefault(name(test), "passed")

    def addError(self, test: Any, err: Any) -> None:
        """See `unittest.TestResult`."""
        super().addError(test, err)
        OUTCOMES[name(test)] = reason(err)

    def addFailure(self, test: Any, err: Any) -> None:
        """See `unittest.TestResult`."""
        super().addFailure(test, err)
        OUTCOMES[name(test)] = reason(err)

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        """See `unittest.TestResult`."""
        super().addSubTest(test, subtest, err)
        if err:
            OUTCOMES[name(test)] = reason(err)


def name(test: Any) -> str:
    """The test's name, without those of its module and class."""
    return str(test.id().rpartition(".")[2])


def reason(err: Any) -> str:
    """What it was that did not hold, in one line."""
    text = "".join(traceback.format_exception_only(*err[:2])).strip()
    return " ".join(text.split())[:300]


def main(report: str, file: str, *tests: str) -> None:
    """Run those tests of the file, all where none is named."""
    sys.path.insert(0, str(Path(file).parent.absolute()))
    if extended := os.environ.get("SUITE_PACKAGE"):  # an installed package that the suite's sources add to
        package, _, folder = extended.partition("=")
        importlib.import_module(package).__path__.append(folder)
    module = importlib.import_module(Path(file).stem)
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromNames(tests, module) if tests else loader.loadTestsFromModule(module)
    runner: Any = unittest.TextTestRunner
    runner(verbosity=2, resultclass=Result).run(suite)
    Path(report).write_text(json.dumps(OUTCOMES))


if __name__ == "__main__":
    main(*sys.argv[1:])
