"""The OpenAPI document is true: schemathesis asks the running stack what it allows and forbids."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.support.running import ROOT, Stack

_CONFIG = Path(__file__).parent / "schemathesis.toml"


@pytest.mark.slow
def test_schemathesis_finds_no_answer_that_the_document_does_not_name(
    up: Callable[..., Stack], make_onnx: Callable[..., Path], tmp_path: Path
) -> None:
    # given a stack of its own, whose models the requests may load and unload
    models = make_onnx(tmp_path / "models").parents[1]
    for name in ("digits", "sentiment"):
        shutil.copytree(ROOT / "models" / name, models / name)
    stack = up("--models", str(models))
    document = httpx.get(f"{stack.url}/openapi.json").json()
    # when requests are made from the document, most of them to models that are there
    document["components"]["parameters"]["model"]["schema"] = {"enum": ["digits", "sentiment", "tiny"]}
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(_CONFIG)]
    command += ["run", str(tmp_path / "openapi.json"), "--url", stack.url]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=600)
    # then every operation was tried, and every answer was one that the document names
    assert run.returncode == 0, run.stdout + run.stderr
    count = sum(len(methods) for methods in document["paths"].values())
    assert re.search(rf"Tested: {count}\n", run.stdout), run.stdout


def test_the_examples_in_the_document_are_answered(stack: Stack) -> None:
    document = httpx.get(f"{stack.url}/openapi.json").json()
    parameters = document["components"]["parameters"]
    for path, methods in document["paths"].items():
        if "{label}" in path:
            continue  # no version has a label before somebody gives it one
        if path.startswith("/page/assets/") or "/files/" in path:
            continue  # this stack has none; tests/acceptance/test_page_in_browser.py asks one that has
        if path.startswith("/v1/jobs"):
            continue  # this stack has none; tests/integration/test_jobs_api.py asks one that has
        url = stack.url + re.sub(r"\{(\w+)\}", lambda match: str(parameters[match[1]]["example"]), path)
        for method, operation in methods.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            if "requestBody" in operation and not body:
                continue  # no bundled model answers one
            answer = httpx.request(method, url, json=body, timeout=60)
            assert answer.status_code == 200, (method, url, answer.text)
