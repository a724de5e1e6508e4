"""Where the suites' sources are: each in a folder that an environment variable names, else its tests are skipped."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TRITON = "CONTRACT_SUITES_TRITON"  # a copy of triton-inference-server/server
TENSORFLOW_SERVING = "CONTRACT_SUITES_TENSORFLOW_SERVING"  # a copy of tensorflow/serving
KSERVE = "CONTRACT_SUITES_KSERVE"  # an interpreter that has `kserve`
PERF_ANALYZER = "CONTRACT_SUITES_PERF_ANALYZER"  # the program
PYTHON_TENSORFLOW = "CONTRACT_SUITES_PYTHON_TENSORFLOW"  # one that has what TensorFlow Serving's tests import
PYTHON = "CONTRACT_SUITES_PYTHON"  # an interpreter that has what the suites import


def needs(*variables: str) -> pytest.MarkDecorator:
    """Marks tests to be skipped, saying so, where a variable names nothing."""
    missing = [variable for variable in variables if not os.environ.get(variable)]
    return pytest.mark.skipif(
        bool(missing), reason=f"{', '.join(missing)} not set: see tests/contract/suites/README.md"
    )


def place(variable: str) -> Path:
    """What the variable names."""
    path = Path(os.environ[variable])
    assert path.exists(), f"{variable} names {path}, which is not there"
    return path.absolute()


def require_namespaces() -> None:
    """Skips the test where no network namespace can be made: these suites have ports 8000 and 8001 written in."""
    unshare = shutil.which("unshare")
    if not unshare or subprocess.run([unshare, "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here: `unshare --net` needs to be permitted")
