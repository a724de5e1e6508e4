"""What an operator sees: the gauges, and every query and rule of ours in a real Prometheus with data of a real load."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.prometheus import Prometheus, program, prometheus
from tests.support.running import ROOT, Parts, free_port, until, until_all_say

MONITORING = ROOT / "deploy" / "monitoring"
ALERTS = MONITORING / "alerts.yml"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "millrace.json"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, make_onnx: Callable[..., Path]) -> Iterator[tuple[Parts, int]]:
    """An API of two processes with a worker that tells its metrics on the port; the model tiny has two versions."""
    folder = tmp_path_factory.mktemp("sight")
    for version in (1, 2):
        make_onnx(folder / "models", "tiny", version)
    (folder / "models" / "tiny" / "config.pbtxt").write_text("version_policy { all {} }\n")
    port = free_port()
    settings = {"MILLRACE_WORKER_METRICS_PORT": str(port), "MILLRACE_SERVING_PROCESSES": "2"}
    with Parts(folder, folder / "models", **settings) as parts:  # type: ignore[arg-type]
        for version in (1, 2):
            path = f"{parts.urls[0]}/v2/models/tiny/versions/{version}/ready"

            def look(path: str = path) -> tuple[int, str]:
                answer = httpx.get(path)
                return answer.status_code, answer.headers["x-request-id"]

            until_all_say(2, look, f"version {version} in both processes")
        yield parts, port


def metrics(url: str) -> dict[str, float]:
    """The samples, by name and labels as they are written."""
    lines = [line for line in httpx.get(f"{url}/metrics").text.splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def ask(parts: Parts, path: str = "/v1/models/tiny:predict", body: str = '{"instances": [[1, 2, 3]]}') -> int:
    return httpx.post(f"{parts.urls[0]}{path}", content=body).status_code


def test_the_api_tells_what_waits_who_serves_and_what_it_takes(stack: tuple[Parts, int]) -> None:
    parts, _ = stack
    assert ask(parts) == 200
    found = metrics(parts.urls[0])
    for name, value in {
        'millrace_queue_rows{model="tiny",priority="normal",version="2"}': 0,
        'millrace_queue_bytes{model="tiny",priority="bulk",version="1"}': 0,
        'millrace_queue_blocks{model="tiny",priority="high",state="waiting",version="1"}': 0,
        'millrace_queue_oldest_seconds{model="tiny",priority="normal",version="2"}': 0,
        'millrace_dead_letters{model="tiny",version="2"}': 0,
        'millrace_inflight_requests{model="tiny",version="2"}': 0,
        'nv_inference_pending_request_count{model="tiny",version="2"}': 0,
        'millrace_model_instances{model="tiny",version="2"}': 2,
        'millrace_model_versions{model="tiny",state="AVAILABLE",version="1"}': 1,
        "millrace_live_workers": 1,
        "millrace_api_processes": 2,
    }.items():
        assert found[name] == value, name
    assert found["process_resident_memory_bytes"] > 2 * 2**25
    assert found["process_cpu_seconds_total"] > 0
    assert found["process_start_time_seconds"] > 1.7e9
    assert [name for name in found if name.startswith("millrace_build_info{")]


def test_the_worker_tells_its_own(stack: tuple[Parts, int]) -> None:
    found = metrics(f"http://127.0.0.1:{stack[1]}")
    assert found['millrace_worker_instances{model="tiny",version="1"}'] == 2
    assert found['millrace_worker_instances_working{model="tiny",version="1"}'] == 0
    assert found["millrace_worker_model_processes"] == 2
    assert found["millrace_worker_model_memory_bytes"] > 2**20
    assert found["millrace_worker_model_process_ends_total"] == 0
    assert [name for name in found if name.startswith("millrace_worker_info{")]


@pytest.fixture(scope="module")
def watching(stack: tuple[Parts, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has looked at the stack several times while it was asked, with a shadow."""
    parts, port = stack
    shadow = {"weights": {"1": 1}, "shadow": {"version": 2, "percent": 100}}
    httpx.put(f"{parts.urls[0]}/v1/models/tiny/traffic", json=shadow).raise_for_status()
    jobs = {"millrace": [parts.urls[0].removeprefix("http://")], "millrace-worker": [f"127.0.0.1:{port}"]}
    with prometheus(tmp_path_factory.mktemp("prometheus"), ALERTS, jobs) as running:

        def has_seen_enough() -> bool:
            assert ask(parts) == 200
            assert ask(parts, body="{}") == 400
            counted = running.query("min(count_over_time(millrace_shadow_rows_total[5s]))")
            return bool(counted) and float(counted[0]["value"][1]) >= 4

        until(has_seen_enough, what="Prometheus to have looked often enough")
        yield running


def test_prometheus_takes_all_that_is_told(watching: Prometheus) -> None:
    targets = watching.get("targets")["activeTargets"]
    assert [(target["health"], target["lastError"]) for target in targets] == [("up", "")] * 2


def expressions() -> list[Any]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [
        pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
        for panel in panels
        for target in panel["targets"]
    ]


@pytest.mark.parametrize("expression", expressions())
def test_every_query_of_the_dashboard_finds_data(expression: str, watching: Prometheus) -> None:
    found = watching.query(expression.replace("$__rate_interval", "10s").replace("$model", ".*"))
    assert found
    assert all(sample["value"][1] != "NaN" for sample in found)


def test_every_rule_is_evaluated_on_metrics_that_there_are_and_none_fires(watching: Prometheus) -> None:
    def rules() -> list[Any]:
        return [rule for group in watching.get("rules")["groups"] for rule in group["rules"]]

    until(lambda: all(rule["health"] != "unknown" for rule in rules()), what="the rules to be evaluated")
    assert [rule["lastError"] for rule in rules() if rule["health"] != "ok"] == []
    assert len(rules()) >= 8
    assert [rule["name"] for rule in rules() if rule["state"] == "firing"] == []
    for rule in rules():
        for name in set(re.findall(r"\b(?:millrace|process|nv)_\w+", rule["query"])):
            assert watching.query(f"count({name})"), name


def test_promtool_finds_nothing_wrong() -> None:
    for check in (["rules", str(ALERTS)], ["config", str(MONITORING / "prometheus.yml")]):
        checked = subprocess.run([program("promtool"), "check", *check], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_every_alert_fires_when_it_should_and_not_else() -> None:
    file = MONITORING / "alerts_test.yml"
    alerts = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    tested = [test["name"] for test in yaml.safe_load(file.read_text())["tests"]]
    assert sorted(tested) == sorted(f"{alert} {how}" for alert in alerts for how in ("fires", "is silent"))
    done = subprocess.run(
        [program("promtool"), "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_workers_503_bear_the_models_name_in_metrics_and_in_the_log_as_errors(stack: tuple[Parts, int]) -> None:
    """The last test of this module: it takes the worker away."""
    parts, _ = stack
    parts.workers[0].terminate()
    parts.workers[0].wait(30)
    until(lambda: ask(parts) == 503)
    assert ask(parts, "/v1/models/unknown-name:predict") in (404, 503)
    counted = metrics(parts.urls[0])
    lines = [json.loads(line) for line in parts.log.read_text().splitlines() if line.startswith("{")]
    assert [n for n in counted if re.match(r'millrace_requests_total.*model="tiny".*status="503",version="[12]"', n)]
    assert not [name for name in counted if "unknown-name" in name]
    said = [(line["level"], line["model"]) for line in lines if line["event"] == "request" and line["status"] == 503]
    assert ("error", "tiny") in said
