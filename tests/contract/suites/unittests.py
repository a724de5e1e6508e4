"""Runs the unit tests of a file and writes what came of each as JSON: `python unittests.py REPORT FILE [TEST…]`.

It runs in the suite's own interpreter, so it imports nothing of ours.
"""

import importlib.util
import json
import sys
import traceback
import unittest
from pathlib import Path


class Result(unittest.TextTestResult):
    """Keeps the first line of why each test did not pass."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.outcomes = {}

    def addSuccess(self, test):
        super().addSuccess(test)
        self.outcomes.setdefault(name(test), "passed")

    def addError(self, test, err):
        super().addError(test, err)
        self.outcomes[name(test)] = reason(err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.outcomes[name(test)] = reason(err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err:
            self.outcomes[name(test)] = reason(err)


def name(test):
    return test.id().rpartition(".")[2]


def reason(err):
    text = "".join(traceback.format_exception_only(*err[:2])).strip()
    return " ".join(text.split())[:300]


def main(report, file, *tests):
    sys.path.insert(0, str(Path(file).parent.absolute()))
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromNames(tests, module) if tests else loader.loadTestsFromModule(module)
    result = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(suite)
    Path(report).write_text(json.dumps(result.outcomes))


main(*sys.argv[1:])
