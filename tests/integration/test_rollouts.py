"""Roll-outs on a running stack, under load: a version that is as good, and ones that are slow, fail or disagree."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from millrace_client import cli

from tests.support import codemodels
from tests.support.running import Parts, until

pytestmark = pytest.mark.slow  # five processes start; tests/unit/test_rollout.py has what is decided
STABLE, GOOD, SLOW, FAILING, DISAGREEING = 1, 2, 3, 4, 5
CODE = """
    import time

    class Model:
        def predict(self, x: float) -> float:
            if x:  # the runs before it serves are of 0
                {line}
            return {factor} * x
    """


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    folder = tmp_path_factory.mktemp("rollouts")
    lines = {SLOW: "time.sleep(0.2)", FAILING: "raise RuntimeError('broken')"}
    for version in (STABLE, GOOD, SLOW, FAILING, DISAGREEING):
        code = CODE.format(line=lines.get(version, "pass"), factor=3 if version == DISAGREEING else 2)
        codemodels.write(folder / "models", "m", code, version)
    (folder / "models" / "m" / "config.pbtxt").write_text("version_policy { all {} }\n")
    with Parts(folder, folder / "models", MILLRACE_WORKER_ALLOW_CODE="true") as parts:
        url = f"{parts.urls[0]}/v1/models/m"

        def are_available() -> bool:
            statuses = httpx.get(url).json().get("model_version_status", [])
            return [status["state"] for status in statuses] == ["AVAILABLE"] * 5

        until(are_available, 60, "all versions")
        yield parts


@pytest.fixture
def load(stack: Parts) -> Iterator[list[int]]:
    """Callers who ask all the time; the statuses of their answers."""
    statuses: list[int] = []
    done = threading.Event()
    body = json.dumps({"instances": [1.0]})  # two rows would be two batches, and no copy is made then

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", stack.ports[0], timeout=30)
        while not done.wait(0.002):
            connection.request("POST", "/v1/models/m:predict", body)
            response = connection.getresponse()
            response.read()
            statuses.append(response.status)
        connection.close()

    httpx.put(f"{stack.urls[0]}/v1/models/m/traffic", json={"weights": {"1": 1}}).raise_for_status()
    threads = [threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    yield statuses
    done.set()
    for thread in threads:
        thread.join()


def roll_out(stack: Parts, version: int, *more: str) -> int:
    conditions = "p90<90ms, errors<5%, agreement>0.95"
    arguments = ["m", str(version), "--promote-if", conditions, "--steps", "40,100", "--every", "400ms"]
    return cli.rollout([*arguments, "--least", "12", "--shadow", "100", "--url", stack.urls[0], *more])


def traffic(stack: Parts) -> Any:
    return httpx.get(f"{stack.urls[0]}/v1/models/m/traffic").json()


@pytest.mark.parametrize(
    ("version", "reason", "promote_if"),
    [
        (SLOW, "p90<90ms", "p90<90ms, errors<5%, agreement>0.95"),
        (FAILING, "errors<5%", "p90<90ms, errors<5%"),
        (FAILING, "agreement>0.95", "agreement>0.95"),  # of copies that have no answer, too
        (DISAGREEING, "agreement>0.95", "p90<90ms, errors<5%, agreement>0.95"),
    ],
)
def test_a_version_that_is_worse_goes_back_and_the_record_says_why(
    version: int, reason: str, promote_if: str, stack: Parts, load: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        roll_out(stack, version, "--promote-if", promote_if)
    assert end.value.code == 1
    assert f"went back from version {version} of m: {reason} does not hold" in capsys.readouterr().out
    after = traffic(stack)
    assert (after["weights"], after["shadow"]) == ({"1": 1.0}, None)
    assert (after["rollout"]["state"], after["rollout"]["version"]) == ("went back", version)
    assert reason in after["rollout"]["reason"]
    assert load


def test_a_good_version_is_promoted_and_no_caller_sees_an_error(
    stack: Parts, load: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert roll_out(stack, GOOD, "--canary", "20%", "--metrics", stack.urls[0]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "gets" in line] == [
        f"version 2 of m gets {p} % of the requests" for p in (20, 40, 100)
    ]
    assert said[-1] == "promoted: version 2 of m answers all requests"
    assert traffic(stack)["weights"] == {"2": 1.0}
    assert {*load} == {200}
    rows = [line for line in httpx.get(f"{stack.urls[0]}/metrics").text.splitlines() if "millrace_shadow_rows" in line]
    assert any('outcome="agreed",version="2"' in line for line in rows)


def test_a_roll_out_that_was_killed_goes_on_and_one_that_is_meddled_with_ends(
    stack: Parts, load: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    record = {"version": GOOD, "state": "running", "steps": [40, 100], "step": 1, "weights_before": {"1": 1.0}}
    left = {"weights": {"2": 100, "1": 0}, "rollout": record}
    httpx.put(f"{stack.urls[0]}/v1/models/m/traffic", json=left).raise_for_status()
    assert roll_out(stack, GOOD) == 0
    assert "goes on with step 2 of 2" in capsys.readouterr().out
    httpx.put(f"{stack.urls[0]}/v1/models/m/traffic", json={"weights": {"1": 1}}).raise_for_status()
    ended: list[object] = []
    running = threading.Thread(target=lambda: ended.append(code_of(lambda: roll_out(stack, GOOD, "--every", "60s"))))
    running.start()
    until(lambda: (traffic(stack)["rollout"] or {}).get("state") == "running")
    httpx.put(f"{stack.urls[0]}/v1/models/m/traffic", json={"weights": {"1": 1}}).raise_for_status()
    running.join(30)
    assert ended == [1]
    assert traffic(stack)["rollout"] is None


def code_of(command: Callable[[], int]) -> object:
    try:
        return command()
    except SystemExit as end:
        return end.code


def test_what_cannot_begin_is_told_on_one_line(stack: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    assert roll_out(stack, 9) == 1
    assert "version 9 of m is not available" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        roll_out(stack, GOOD, "--promote-if", "speed<1")
    assert end.value.code == 2
    assert "'speed<1' is no condition" in capsys.readouterr().err
