"""TensorFlow Serving's own test of its server, REST cases among them, with its own models."""

import shutil
import sys
from pathlib import Path

from tests.contract.suites import running, sources
from tests.support.running import ROOT

pytestmark = sources.needs(sources.TENSORFLOW_SERVING, sources.PYTHON_TENSORFLOW)
_FILES = ("model_servers", "servables/tensorflow/testdata")
_KERAS = "it expects the names that Keras 2 gives"
_KNOWN = {
    "testBadModelConfig": "the text of the error is protobuf's own",
    "testGetModelMetadataREST": "a tensor whose rank the file leaves open is told with the one that its graph has",
    "testGetStatusREST": "the status has the keys `name` and `ready` of KServe's v1 protocol, too",
    "testModelConfigReloadWithZeroPollPeriod": "models.config is always followed",
    "testPredictUDS": "gRPC has no Unix socket",
    "test_profiler_service_with_valid_trace_request": "there is no profiler service; answers have Server-Timing",
    "test_distrat_sequential_keras_saved_model_save": _KERAS,
    "test_sequential_keras_saved_model_save": _KERAS,
    "test_tf_text": "it needs tensorflow_text",
}


def test_its_server_test(tmp_path: Path) -> None:
    theirs = tmp_path / "tf_serving" / "tensorflow_serving"
    for part in _FILES:
        shutil.copytree(sources.place(sources.TENSORFLOW_SERVING) / "tensorflow_serving" / part, theirs / part)
    program = theirs / "model_servers" / "tensorflow_model_server"
    here = Path(__file__).parent
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT}:{ROOT}/client exec {sys.executable} {here}/model_server.py "$@"\n'
    )
    program.chmod(0o755)
    test = theirs / "model_servers" / "tensorflow_model_server_test.py"
    found = running.alone(
        sources.place(sources.PYTHON_TENSORFLOW),
        tmp_path,
        [str(test)],
        {"TEST_SRCDIR": str(tmp_path), "TEST_TMPDIR": str(tmp_path), "SUITE_PACKAGE": f"tensorflow_serving={theirs}"},
    )
    running.check(found, _KNOWN)
