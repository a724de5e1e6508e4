"""The Helm chart: what it makes of every file of values, held to the types of Kubernetes, KEDA and our own settings."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.settings import JobsSettings
from millrace.jobs.settings import JobStoreSettings
from millrace.settings import CommonSettings, load
from serving.settings import ServingSettings
from tests.support.kubernetes import Helm, Object, check, containers, helm
from tests.support.running import ROOT
from worker.settings import WorkerSettings

pytestmark = pytest.mark.slow
_CHART = ROOT / "deploy" / "chart"
_VALUES = ["", *sorted(path.name for path in (_CHART / "ci").glob("*.yaml"))]
_SETTINGS: Mapping[str, tuple[type[CommonSettings], ...]] = {
    "api": (ServingSettings, JobStoreSettings),
    "worker": (WorkerSettings,),
    "jobs": (JobsSettings,),
}


@pytest.fixture(scope="module", name="helm")
def _helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    return helm(tmp_path_factory.mktemp("helm"))


def options(values: str) -> list[str]:
    return ["--values", str(_CHART / "ci" / values)] if values else []


@pytest.fixture(scope="module", params=_VALUES, ids=lambda name: name or "values.yaml")
def made(request: pytest.FixtureRequest, helm: Helm) -> list[Object]:
    """What the chart makes of one file of values."""
    return helm.template(_CHART, *options(request.param))


def of(made: list[Object], kind: str, name: str = "") -> Any:
    (found,) = [each for each in made if each["kind"] == kind and each["metadata"]["name"].endswith(name)]
    return found


def pods(made: list[Object]) -> list[Object]:
    return [found for found in made if found["kind"] in ("Deployment", "StatefulSet")]


@pytest.mark.parametrize("values", _VALUES)
def test_helm_finds_nothing_to_complain_of(values: str, helm: Helm) -> None:
    helm.run("lint", "--strict", str(_CHART), *options(values))


def test_every_object_is_of_its_type(made: list[Object]) -> None:
    for found in made:
        check(found)


def test_the_check_of_types_finds_what_is_wrong(helm: Helm) -> None:
    for found in helm.template(_CHART, *options("gpu-and-keda.yaml")):
        if found["kind"] in ("Deployment", "ScaledObject"):
            with pytest.raises(Exception, match=r"replicsa|unknown fields"):
                check({**found, "spec": {**found["spec"], "replicsa": 1}})


def test_every_program_knows_its_variables(made: list[Object]) -> None:
    for found in pods(made):
        (container,) = found["spec"]["template"]["spec"]["containers"]
        given = {each["name"]: each.get("value", "redis://from-a-secret") for each in container.get("env", ())}
        for settings in _SETTINGS.get(container["name"], ()):
            load(settings, given)


def test_kubernetes_adds_no_variables_that_the_programs_refuse(made: list[Object]) -> None:
    assert [found["spec"]["template"]["spec"]["enableServiceLinks"] for found in pods(made)] == [False] * len(
        pods(made)
    )


def test_no_container_may_do_more_than_it_needs(made: list[Object]) -> None:
    for found in pods(made):
        pod = found["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not pod["automountServiceAccountToken"]
        for container in containers(found):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]


def test_every_mount_has_its_volume(made: list[Object]) -> None:
    for found in pods(made):
        volumes = [volume["name"] for volume in found["spec"]["template"]["spec"].get("volumes", ())]
        volumes += [claim["metadata"]["name"] for claim in found["spec"].get("volumeClaimTemplates", ())]
        mounts = [mount["name"] for container in containers(found) for mount in container["volumeMounts"]]
        assert sorted({*mounts}) == sorted(volumes)


def test_every_selector_finds_pods(made: list[Object]) -> None:
    labels = [found["spec"]["template"]["metadata"]["labels"] for found in pods(made)]
    for found in made:
        selector = found.get("spec", {}).get("selector") or found.get("spec", {}).get("podSelector") or {}
        wanted = selector.get("matchLabels", selector if found["kind"] == "Service" else {})
        if wanted:
            assert any(wanted.items() <= each.items() for each in labels), found["metadata"]["name"]


def test_a_pod_has_the_time_that_its_program_takes_to_stop(made: list[Object]) -> None:
    for name in ("api", "worker"):
        pod = of(made, "Deployment", f"-{name}")["spec"]["template"]["spec"]
        given = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
        drain_s = int(given[f"MILLRACE_{'SERVING' if name == 'api' else 'WORKER'}_DRAIN_TIMEOUT_S"])
        assert pod["terminationGracePeriodSeconds"] >= drain_s + 10


@pytest.mark.parametrize(
    ("chosen", "has_cards"),
    [
        (["--set", "models.source=claim"], True),
        (["--set", "models.source=image", "--set", "models.image=registry.example.org/models:7"], True),
        (["--set", "models.cards=false"], False),
        (options("url-and-external-redis.yaml"), False),
    ],
    ids=["claim", "image", "off", "url"],
)
def test_the_api_reads_the_cards_where_its_pods_can_have_the_models(
    helm: Helm, chosen: list[str], has_cards: bool
) -> None:
    made = helm.template(_CHART, *chosen)
    api, worker = (of(made, "Deployment", f"-{name}")["spec"]["template"]["spec"] for name in ("api", "worker"))
    volumes, workers = (
        {each["name"]: each for each in pod["volumes"] if each["name"] == "models"} for pod in (api, worker)
    )
    given = {each["name"]: each.get("value") for each in api["containers"][0]["env"]}
    assert given.get("MILLRACE_SERVING_MODELS") == ("/models" if has_cards else None)
    assert volumes == (workers if has_cards else {})
    assert api.get("initContainers") == (worker.get("initContainers") if has_cards else None)
    for found in made:
        check(found)


def test_workers_are_scaled_on_the_queue_of_their_own_release(helm: Helm) -> None:
    made = helm.template(_CHART, *options("gpu-and-keda.yaml"))
    scaled = of(made, "ScaledObject")["spec"]
    worker = of(made, "Deployment", "-worker")
    assert scaled["scaleTargetRef"]["name"] == worker["metadata"]["name"]
    assert "replicas" not in worker["spec"]
    query = 'sum(max by (model, version, priority) (millrace_queue_rows{namespace="ml", priority!="bulk"}))'
    assert scaled["triggers"][0]["metadata"]["query"] == query


def test_a_worker_with_a_gpu_asks_for_one(helm: Helm) -> None:
    worker = of(helm.template(_CHART, *options("gpu-and-keda.yaml")), "Deployment", "-worker")
    pod = worker["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert pod["containers"][0]["image"].startswith("millrace-worker-gpu:")
    assert pod["nodeSelector"]
    assert [each["key"] for each in pod["tolerations"]] == ["nvidia.com/gpu", "team"]


def test_a_redis_elsewhere_is_named_by_a_secret_and_none_is_started(helm: Helm) -> None:
    made = helm.template(_CHART, *options("url-and-external-redis.yaml"))
    assert not [found for found in made if found["kind"] == "StatefulSet"]
    for found in pods(made):
        (url,) = [each for each in containers(found)[0]["env"] if each["name"] == "MILLRACE_REDIS_URL"]
        assert url["valueFrom"]["secretKeyRef"] == {"name": "redis", "key": "url"}


@pytest.mark.parametrize(
    ("option", "error"),
    [
        ("api.replicsa=3", "replicsa"),
        ("models.source=url", "models/url"),
        ("models.source=disk", "models/source"),
        ("tls.clientCaSecret=ca", "tls/secret"),
        ("api.port=99999", "api/port"),
        ("worker.autoscaling.rowsPerWorker=many", "rowsPerWorker"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(option: str, error: str, helm: Helm) -> None:
    with pytest.raises(AssertionError, match=error):
        helm.template(_CHART, "--set", option)


def test_every_value_is_in_the_schema_and_has_a_default() -> None:
    schema = json.loads((_CHART / "values.schema.json").read_text())
    values = yaml.safe_load((_CHART / "values.yaml").read_text())
    assert schema["properties"].keys() - {"global"} == values.keys()
    for name, value in values.items():
        assert schema["properties"][name]["properties"].keys() == value.keys()


def test_the_page_names_every_file_of_values() -> None:
    page = Path(ROOT / "docs/howto/deploy-on-kubernetes.md").read_text()
    assert all(f"ci/{name}" in page for name in _VALUES if name)
