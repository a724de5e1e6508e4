"""Versions that come, go, fail and are wanted at run time: real workers and an API's parts, over each broker."""

import asyncio
import gc
import os
import shutil
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from millrace.broker.base import Broker
from millrace.broker.keys import DESIRED_STATES, WORKERS, Queue
from millrace.broker.redis import RedisBroker
from millrace.protocol.desired_state import DesiredState, ModelSettings, Shadow, VersionPolicy
from millrace.protocol.errors import InvalidRequest, ModelNotFound, NotAllowed, Unavailable
from millrace.protocol.messages import NO_VERSION, ModelAnnouncement, WorkerAnnouncement
from serving.models.model_control import IndexEntry, ModelControl
from tests.support.running import RedisServer, until
from tests.support.versions import Api, running
from worker.loading import model as models
from worker.loading.model import Model
from worker.process import Worker
from worker.reconciling.catalogue import Catalogue
from worker.reconciling.files import Stillness
from worker.reconciling.hosts import ServedVersion
from worker.reconciling.local_host import LocalHost
from worker.reconciling.versions import Versions
from worker.settings import WorkerSettings

MakeModel = Callable[..., Path]


@pytest.fixture
def api(broker: Broker) -> Iterator[Api]:
    started = Api(broker)
    yield started
    started.stop()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    return root


@pytest.fixture
def publish(make_onnx: MakeModel, repository: Path, tmp_path: Path) -> Callable[..., Path]:
    """Publishes a version of the model m, or another, as it should be: written beside, then renamed."""

    def published(version: int, name: str = "m", *, is_broken: bool = False) -> Path:
        folder = make_onnx(tmp_path / "staging", name, version)
        if is_broken:
            (folder / "model.onnx").write_bytes(b"no model")
        target = repository / name / str(version)
        target.parent.mkdir(exist_ok=True)
        return folder.rename(target)

    return published


def remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


def index(api: Api) -> list[IndexEntry]:
    return api.repository.index()


def test_a_new_version_takes_the_place_of_the_old_one_which_leaves(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        publish(2)
        until(lambda: api.ask() == 2)
        api.until(v1="END", v2="AVAILABLE")
        assert api.ask() == 2


def test_a_version_that_is_going_still_answers_those_who_have_not_heard(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        old = api.models.find("m")
        publish(2)
        api.until(v1="UNLOADING", v2="AVAILABLE")
        assert api.do(api.asked(old)).outputs["scores"].shape == (1, 2)


def test_a_bad_new_version_is_reported_and_the_old_one_stays_until_the_files_are_mended(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path, make_onnx: MakeModel, tmp_path: Path
) -> None:
    publish(1)
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        bad = publish(2, is_broken=True)
        api.until(v1="AVAILABLE", v2="END")
        assert "model.onnx" in api.error(2)
        assert [entry.state for entry in index(api)] == ["UNAVAILABLE", "READY"]
        assert "model.onnx" in index(api)[0].reason
        assert api.ask() == 1
        (make_onnx(tmp_path / "mended", "m", 2) / "model.onnx").rename(bad / "model.onnx")
        api.until(v1="END", v2="AVAILABLE")


def test_a_worker_that_starts_on_a_bad_version_serves_the_one_before(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    publish(2, is_broken=True)
    publish(3, is_broken=True)
    with running(broker, repository):
        api.until(v1="AVAILABLE", v2="END", v3="END")
        assert api.ask() == 1


def test_models_come_and_go_with_their_folders(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        folder = publish(7, "other")
        api.until(name="other", v7="AVAILABLE")
        remove(folder)
        api.until(name="other", v7="END")
        assert api.states() == {1: "AVAILABLE"}


def test_a_repository_that_is_suddenly_empty_changes_nothing(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(1)
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        (repository / "m").rename(repository.with_name("away"))
        until(lambda: "the repository cannot be read" in caplog.text)
        assert api.ask() == 1


def test_a_repository_that_cannot_be_read_for_a_while_changes_nothing(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(1)
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        repository.rename(repository.with_name("away"))
        until(lambda: "the repository cannot be read" in caplog.text)
        assert api.ask() == 1
        repository.with_name("away").rename(repository)
        publish(2)
        api.until(v1="END", v2="AVAILABLE")


def test_the_policy_says_which_versions_are_held(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    for version in (1, 2, 3):
        publish(version)
    with running(broker, repository):
        api.until(v3="AVAILABLE")
        api.do(api.repository.set_policy("m", VersionPolicy(latest=2)))
        assert api.states() == {2: "AVAILABLE", 3: "AVAILABLE"}
        api.do(api.repository.set_policy("m", VersionPolicy(specific=(1,))))
        assert api.ask() == 1
        api.until(v1="AVAILABLE", v2="END", v3="END")
        api.do(api.repository.set_policy("m", VersionPolicy(latest=0)))
        assert api.states() == {1: "AVAILABLE", 2: "AVAILABLE", 3: "AVAILABLE"}
        api.do(api.repository.set_policy("m", None))
        api.until(v1="END", v2="END", v3="AVAILABLE")


def test_a_version_of_a_policy_that_fails_leaves_what_serves(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    publish(2, is_broken=True)
    with running(broker, repository):
        api.until(v1="AVAILABLE", v2="END")
        api.do(api.repository.set_policy("m", VersionPolicy(specific=(2,))))
        assert api.states() == {1: "AVAILABLE", 2: "END"}


def test_a_model_is_unloaded_and_loaded_again_at_run_time(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        api.do(api.repository.unload("m"))
        assert index(api) == [IndexEntry("m", "1", "UNLOADING", "")]
        api.until(v1="END")
        assert index(api) == [IndexEntry("m", "1", "UNAVAILABLE", "unloaded")]
        assert api.repository.index(ready=True) == []
        api.do(api.repository.load("m"))
        assert api.ask() == 1


def test_a_model_that_is_wanted_again_before_it_has_left_is_there_at_once(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(1)
    caplog.set_level("INFO")
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        api.do(api.repository.unload("m"))
        api.do(api.repository.load("m"))
        assert api.states() == {1: "AVAILABLE"}
        assert caplog.text.count("loaded a model") == 1


def test_an_unloaded_version_is_freed(
    broker: Broker,
    api: Api,
    publish: Callable[..., Path],
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive: list[weakref.ref[Model]] = []
    load = models.load

    def remembered(*arguments: Any, **options: Any) -> Model:
        model = load(*arguments, **options)
        alive.append(weakref.ref(model))
        return model

    monkeypatch.setattr(models, "load", remembered)
    publish(1)
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        api.do(api.repository.unload("m"))
        api.until(v1="END")

        def is_freed() -> bool:
            gc.collect()
            return alive[0]() is None

        until(is_freed, what="the model to be freed")
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("m/1-")]


def test_loading_says_why_a_version_failed_and_tries_it_again(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1, is_broken=True)
    with running(broker, repository):
        api.until(v1="END")
        with pytest.raises(InvalidRequest, match=r"load failed for model 'm': version 1 .*model\.onnx"):
            api.do(api.repository.load("m"))
        with pytest.raises(InvalidRequest, match="failed to load 'nobody', failed to poll from model repository"):
            api.do(api.repository.load("nobody"))


def test_a_model_is_looked_for_when_it_is_asked_for_whenever_the_worker_would_look_by_itself(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    with running(broker, repository, poll_s=600):
        api.until(v1="AVAILABLE")
        publish(1, "late")
        api.do(api.repository.load("late"))
        assert api.states("late") == {1: "AVAILABLE"}
        with pytest.raises(InvalidRequest, match="failed to load 'nobody', failed to poll from model repository"):
            api.do(api.repository.load("nobody"))


def test_labels_and_a_configuration_that_changed_are_loaded_when_it_is_asked_for(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    output = 'output { name: "scores" data_type: TYPE_FP32 dims: 2 label_filename: "labels.txt" }'
    (repository / "m" / "config.pbtxt").write_text(output)
    (repository / "m" / "labels.txt").write_text("cat\ndog\n")
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        assert api.models.versions("m")[0].labels == ("cat", "dog")
        (repository / "m" / "labels.txt").write_text("cow\npig\n")
        os.utime(repository / "m" / "labels.txt", ns=(0, 0))
        api.do(api.repository.load("m"))
        assert api.models.versions("m")[0].labels == ("cow", "pig")
        (repository / "m" / "config.pbtxt").write_text(f"max_batch_size: 3 {output}")
        api.do(api.repository.load("m"))
        assert api.models.versions("m")[0].max_batch_size == 3


def test_a_model_that_was_unloaded_or_deleted_is_not_found(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    folder = publish(1)
    publish(1, "other")
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        api.do(api.repository.unload("m"))
        api.until(v1="END")
        with pytest.raises(ModelNotFound):
            api.models.find("m")
        api.do(api.repository.load("m"))
        assert api.ask() == 1
        remove(folder)
        folder.parent.rmdir()
        api.until(v1="END")
        with pytest.raises(ModelNotFound):
            api.models.find("m")


def test_files_that_changed_in_place_are_loaded_when_it_is_asked_for_with_the_version_serving_on(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    folder = publish(1)
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        good = (folder / "model.onnx").read_bytes()
        (folder / "model.onnx").write_bytes(b"no model")
        with pytest.raises(InvalidRequest, match="load failed for model 'm': version 1"):
            api.do(api.repository.load("m"))
        assert api.ask() == 1
        (folder / "model.onnx").write_bytes(good)
        api.do(api.repository.load("m"))
        assert api.error(1) == ""
        assert api.ask() == 1


def test_a_version_with_a_label_or_a_weight_or_a_shadow_stays(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    for version in (1, 2, 3):
        publish(version)
    with running(broker, repository):
        api.until(v3="AVAILABLE")
        api.do(api.repository.set_policy("m", VersionPolicy(latest=0)))
        api.do(api.repository.set_label("m", "stable", 1))
        api.do(api.repository.set_traffic("m", {2: 1}, Shadow(3, 50)))
        publish(4)
        api.do(api.repository.set_policy("m", None))
        api.until(v1="AVAILABLE", v2="AVAILABLE", v3="AVAILABLE", v4="AVAILABLE")
        assert (api.ask(), api.ask(label="stable")) == (2, 1)
        api.do(api.repository.set_traffic("m", {}, None))
        api.until(v1="AVAILABLE", v2="END", v3="END", v4="AVAILABLE")
        api.do(api.repository.remove_label("m", "stable"))
        api.until(v1="END", v2="END", v3="END", v4="AVAILABLE")


def test_labels_and_weights_are_for_available_versions_only(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    publish(2, is_broken=True)
    with running(broker, repository):
        api.until(v1="AVAILABLE", v2="END")
        for wrong in (
            api.repository.set_label("m", "stable", 2),
            api.repository.set_traffic("m", {1: 1, 2: 1}, None),
            api.repository.set_traffic("m", {}, Shadow(9, 10)),
        ):
            with pytest.raises(InvalidRequest, match="which is not currently available for inference; available: 1"):
                api.do(wrong)
        for wrong in (
            api.repository.set_traffic("m", {1: -1}, None),
            api.repository.set_traffic("m", {1: float("nan")}, None),
            api.repository.set_traffic("m", {1: 0}, None),
            api.repository.set_traffic("m", {}, Shadow(1, 0)),
            api.repository.set_label("m", "a/b", 1),
            api.repository.set_label("m", "", 1),
            api.repository.remove_label("m", "nobody"),
        ):
            with pytest.raises(InvalidRequest):
                api.do(wrong)
        with pytest.raises(ModelNotFound):
            api.do(api.repository.set_label("nobody", "stable", 1))


def test_nothing_can_be_changed_where_the_settings_do_not_allow_it(
    broker: Broker, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    api = Api(broker, model_control="none")
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        for change in (
            api.repository.load("m"),
            api.repository.unload("m"),
            api.repository.reload([]),
            api.repository.set_policy("m", None),
            api.repository.set_label("m", "stable", 1),
            api.repository.remove_label("m", "stable"),
            api.repository.set_traffic("m", {}, None),
        ):
            with pytest.raises(NotAllowed, match="explicit model load / unload is not allowed"):
                api.do(change)
        assert api.states() == {1: "AVAILABLE"}
    api.stop()


def test_a_reload_request_serves_the_models_that_it_names_and_no_others(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    for version in (1, 2):
        publish(version)
    publish(5, "other")
    with running(broker, repository):
        api.until(v2="AVAILABLE")
        api.until(name="other", v5="AVAILABLE")
        config = ModelSettings(name="m", policy=VersionPolicy(specific=(1, 2)), labels={"stable": 1, "canary": 2})
        alias = ModelSettings(name="alias", base_path=str(repository / "other"))
        api.do(api.repository.reload([config, alias]))
        assert (api.ask(label="stable"), api.ask(label="canary")) == (1, 2)
        assert api.states("alias") == {5: "AVAILABLE"}
        api.until(name="other", v5="END")
        with pytest.raises(InvalidRequest, match="base_path 'etc' is outside of the model repository"):
            api.do(api.repository.reload([ModelSettings(name="roams", base_path="/etc")]))
        with pytest.raises(InvalidRequest, match="twice"):
            api.do(api.repository.reload([config, config]))


def test_names_that_no_worker_has_a_folder_of_are_refused_and_leave_nothing_behind(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    (repository / "family").mkdir()
    (repository / "m").rename(repository / "family" / "deep")
    publish(1)
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        made_up = [ModelSettings(name=f"{number:0128}") for number in range(1000)]
        elsewhere = [ModelSettings(name=f"x{number}", base_path="family/none") for number in range(16)]
        for configs, error in (
            ([*made_up, ModelSettings(name="m")], "at most 1000 models"),
            (made_up, "failed to poll from model repository"),
            ([ModelSettings(name="m"), ModelSettings(name="x" * 4000)], "printable characters"),
            ([*elsewhere, ModelSettings(name="y", base_path="family/z")], "at most 16 new models"),
            ([*elsewhere, ModelSettings(name="m")], "load failed for model 'x0'"),
        ):
            with pytest.raises(InvalidRequest, match=error):
                api.do(api.repository.reload(configs))
            known = api.producer.desired_states.by_model.values()
            assert [state for state in known if not state.asks_for_nothing] == []
            assert api.ask() == 1
        until(lambda: api.models.names() == ["m"])
        api.do(api.repository.reload([ModelSettings(name="m"), ModelSettings(name="d", base_path="family/deep")]))
        assert api.states("d") == {1: "AVAILABLE"}


@pytest.mark.slow
def test_what_is_wanted_of_all_models_takes_a_megabyte_at_most(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    policy = VersionPolicy(specific=tuple(range(10**18, 10**18 + 1000)))
    for number in range(60):
        publish(1, f"m{number}")
    publish(1)
    with running(broker, repository):
        api.until(name="m59", v1="AVAILABLE")
        api.until(v1="AVAILABLE")
        with pytest.raises(InvalidRequest, match="1000000 bytes together"):
            api.do(api.repository.reload([ModelSettings(name=f"m{number}", policy=policy) for number in range(60)]))
        assert api.producer.desired_states.by_model == {}
        for number in range(49):  # of 20 kB each
            api.do(api.repository.set_policy(f"m{number}", policy))
        with pytest.raises(InvalidRequest, match="1000000 bytes together"):
            api.do(api.repository.set_policy("m49", policy))
        api.do(api.repository.set_policy("m0", None))
        api.do(api.repository.set_label("m", "stable", 1))


def test_a_document_that_asks_for_nothing_is_forgotten_in_an_hour_by_all(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    hour_ms = 3_600_000
    link = broker.worker()
    link.announce(WorkerAnnouncement(worker="asks the time", expires_ms=0, models=()))
    now_ms = int(link.clock.now_ms())
    old = [
        DesiredState(model="gone", generation=now_ms - hour_ms - 1),
        DesiredState(model="m", generation=1, weights={1: 1}),
    ]
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        link.put_back([*old, DesiredState(model="new", generation=now_ms)])

        def stored() -> set[str]:
            seen = link.announce(WorkerAnnouncement(worker="looks", expires_ms=0, models=()))[1]
            return {state.model for state in seen}

        until(lambda: stored() == {"m", "new"})
        until(lambda: set(api.producer.desired_states.by_model) == {"m", "new"})
        api.do(api.repository.unload("m"))


def test_who_waits_for_workers_is_told_when_the_server_stops_or_the_time_is_up(broker: Broker) -> None:
    api = Api(broker)
    announced = (ModelAnnouncement(name="m", version=1, state="AVAILABLE"),)
    link = broker.worker()  # a worker that never does what is wanted
    link.announce(WorkerAnnouncement(worker="idle", expires_ms=2**50, models=announced))
    api.until(v1="AVAILABLE")
    answers: list[BaseException] = []

    def unload() -> None:
        with pytest.raises(Unavailable) as caught:
            api.do(api.repository.unload("m"))
        answers.append(caught.value)

    waiting = threading.Thread(target=unload)
    waiting.start()
    until(lambda: not api.repository.control("m").is_loaded)
    api.do(api.repository.stop())
    waiting.join(30)
    assert "the server is shutting down" in str(answers[0])
    api.stop()
    link.close()


def test_a_version_that_comes_back_with_other_files_before_it_has_left_is_loaded_anew(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path, make_onnx: MakeModel, tmp_path: Path
) -> None:
    publish(1, "other")
    folder = publish(1)
    changed = make_onnx(tmp_path / "changed", "m", 3)
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        assert api.ask() == 1
        folder.rename(tmp_path / "old")
        api.until(v1="UNLOADING")
        changed.rename(folder)
        until(lambda: api.states() == {1: "AVAILABLE"} and api.ask() == 3)


def test_two_who_change_one_model_lose_nothing(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    other = Api(broker, "other")
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        other.until(v1="AVAILABLE")

        async def label(repository: ModelControl, name: str) -> None:
            await asyncio.gather(*(repository.set_label("m", f"{name}{number}", 1) for number in range(20)))

        both = [
            threading.Thread(target=process.do, args=(label(process.repository, name),))
            for process, name in ((api, "a"), (other, "b"))
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        until(lambda: len(api.models.labels("m")) == 40)
    other.stop()


def test_what_is_wanted_outlives_a_worker_that_restarts(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    publish(1, "other")
    with running(broker, repository):
        api.until(v1="AVAILABLE")
        api.do(api.repository.set_label("m", "stable", 1))
        api.do(api.repository.unload("other"))
        publish(2)
        api.until(v1="AVAILABLE", v2="AVAILABLE")
    api.until(v1="END", v2="END")
    with running(broker, repository):
        api.until(v1="AVAILABLE", v2="AVAILABLE")
        assert api.ask(label="stable") == 1
        assert api.states("other") == {1: "END"}


@pytest.mark.parametrize("who", ["api", "worker"])
def test_a_redis_that_comes_back_empty_is_told_again(
    own_redis: RedisServer, publish: Callable[..., Path], repository: Path, who: str
) -> None:
    """Whoever knew what was wanted puts it back: an API process, or a worker."""
    broker = RedisBroker(own_redis.url)
    api = Api(broker)
    publish(1)
    publish(2)
    worker: AbstractContextManager[Worker] = running(broker, repository)
    with worker:
        api.until(v2="AVAILABLE")
        api.do(api.repository.set_policy("m", VersionPolicy(specific=(1,))))
        api.until(v1="AVAILABLE", v2="END")
        if who == "worker":
            api.stop()
        else:
            worker.__exit__(None, None, None)
        own_redis.kill()
        own_redis.start()
        if who == "worker":
            api = Api(broker)
        else:
            until(lambda: api.producer.is_connected)
            worker = running(broker, repository)
            worker.__enter__()
        until(lambda: api.states() == {1: "AVAILABLE"} or api.states() == {1: "AVAILABLE", 2: "END"})
        until(lambda: api.repository.control("m").policy == VersionPolicy(specific=(1,)))
        if who == "api":
            worker.__exit__(None, None, None)
    api.stop()


def test_a_new_version_waits_until_every_worker_has_it(
    broker: Broker,
    api: Api,
    publish: Callable[..., Path],
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two workers load at different speeds: until the slow one is done, the other does not carry everything alone."""
    gate, entered = threading.Event(), threading.Event()
    load = models.load
    lock = threading.Lock()
    seen: list[int] = []

    def slow(folder: Path, name: str, version: int, **options: Any) -> Model:
        with lock:
            seen.append(version)
            is_second = seen.count(2) == 2
        if is_second:
            entered.set()
            gate.wait(30)
        return load(folder, name, version, **options)

    monkeypatch.setattr(models, "load", slow)
    publish(1)
    with running(broker, repository), running(broker, repository):
        until(lambda: [m.state for w in api.producer.workers for m in w.models] == ["AVAILABLE", "AVAILABLE"])
        publish(2)
        assert entered.wait(30)
        until(lambda: api.states() == {1: "AVAILABLE", 2: "AVAILABLE"})
        assert api.ask() == 1
        assert api.ask(version=2) == 2
        gate.set()
        until(lambda: api.ask() == 2)
        api.until(v1="END", v2="AVAILABLE")


# What Redis may hold of another version of Millrace's, or of anybody's.
GARBAGE = {
    "no JSON": b"\x00\xff",
    "no UTF-8": b'{"model": "\xff"}',
    "nested without end": b'{"model": ' + b"[" * 100_000,
    "another form, and newer than all": b'{"model": 5, "generation": 9007199254740991}',
}


@pytest.mark.parametrize("garbage", GARBAGE)
def test_documents_that_cannot_be_read_disturb_neither_workers_nor_api_processes(
    own_redis: RedisServer, publish: Callable[..., Path], repository: Path, garbage: str
) -> None:
    broker = RedisBroker(own_redis.url)
    api = Api(broker)
    publish(1)
    publish(1, "other")
    with running(broker, repository) as worker:
        api.until(v1="AVAILABLE")
        api.do(api.repository.set_policy("m", VersionPolicy(latest=0)))
        with redis.Redis.from_url(own_redis.url) as client:
            client.hset(DESIRED_STATES, "m", GARBAGE[garbage])
            client.hset(DESIRED_STATES, "nobody", GARBAGE[garbage])
            client.hset(WORKERS, "nobody", GARBAGE[garbage])
        publish(2)
        until(lambda: api.states() == {1: "AVAILABLE", 2: "AVAILABLE"})
        assert api.ask() == 2
        api.do(api.repository.unload("other"))
        assert api.producer.is_connected
        assert not worker.has_failed
    api.stop()


def test_a_base_path_that_no_folder_can_have_is_an_error_in_words(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    (repository / "loop").symlink_to("loop")
    with running(broker, repository) as worker:
        api.until(v1="AVAILABLE")
        for path in ("a\0b", "loop", "x" * 4000):
            configs = [ModelSettings(name="m"), ModelSettings(name="bad", base_path=path)]
            with pytest.raises(InvalidRequest, match="load failed for model 'bad'"):
                api.do(api.repository.reload(configs))
        assert api.ask() == 1
        assert not worker.has_failed


def test_folders_with_odd_names_hurt_no_other(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    publish(1)
    for name in (b"\xff", b"a b", b"..x", b"new\nline", "müller".encode(), b"{braces}"):
        (repository / os.fsdecode(name) / "1" / os.fsdecode(b"\xfe")).mkdir(parents=True)
    (repository / "m" / "9").write_text("no folder")
    (repository / "m" / str(2**63)).mkdir()
    (repository / "m" / str(2**63 - 1)).mkdir()
    with running(broker, repository) as worker:
        until(lambda: api.states().get(1) == "AVAILABLE")
        assert api.states() == {1: "AVAILABLE", 2**63 - 1: "END"}
        assert api.states("a b") == {1: "END"}
        assert api.ask() == 1
        publish(2)
        until(lambda: api.ask() == 2)
        assert not worker.has_failed


def test_a_model_whose_folder_cannot_be_read_keeps_no_other_from_being_loaded(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(1)
    publish(1, "locked")
    scandir = os.scandir

    def refused(path: Any = ".") -> Any:  # as for others than root where the permission is missing
        if Path(path).name == "locked":
            raise PermissionError(f"Permission denied: {path}")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with running(broker, repository) as worker:
        api.until(v1="AVAILABLE")
        publish(2)
        until(lambda: api.ask() == 2)
        assert api.states("locked") == {NO_VERSION: "END"}
        monkeypatch.undo()
        api.until(name="locked", v1="AVAILABLE")
        assert not worker.has_failed


def test_a_heartbeat_that_fails_ends_the_worker(broker: Broker, publish: Callable[..., Path], repository: Path) -> None:
    class Fails(LocalHost):
        def check(self) -> None:
            raise ZeroDivisionError

    publish(1)
    settings = WorkerSettings(models=repository)
    worker = Worker(settings, broker, partial(Fails, settings, broker))
    worker.run()
    assert worker.has_failed


def test_a_version_that_fails_and_changes_all_the_time_hurts_no_other(
    broker: Broker, api: Api, publish: Callable[..., Path], repository: Path
) -> None:
    """Its folders come and go while the worker looks whether anything has changed."""
    publish(1)
    stopping = threading.Event()

    def churn() -> None:
        while not stopping.is_set():
            for number in range(30):
                (repository / "m" / "2" / f"a{number}" / "b" / "c").mkdir(parents=True, exist_ok=True)
            shutil.rmtree(repository / "m" / "2")

    churning = threading.Thread(target=churn)
    with running(broker, repository, poll_s=0.001) as worker:
        api.until(v1="AVAILABLE")
        churning.start()
        ends = time.monotonic() + 2
        until(lambda: worker.has_failed or time.monotonic() > ends)
        stopping.set()
        churning.join()
        assert api.ask() == 1
        assert not worker.has_failed


class _Loaded:
    """What a load ends with."""

    def __init__(self, name: str) -> None:
        self.queue = Queue(name, 1)
        self.announcement = ModelAnnouncement(name=name, version=1, state="AVAILABLE")
        self.fault = ""
        self.is_alive = True

    def serve(self) -> None:
        """It serves at once."""

    def drain(self) -> None:
        self.is_alive = False


def test_a_load_that_takes_long_keeps_no_other_model_waiting(make_onnx: Callable[..., Path], tmp_path: Path) -> None:
    loads: dict[str, Future[ServedVersion]] = {name: Future() for name in ("slow", "other", "gone")}
    for name in loads:
        make_onnx(tmp_path, name)
    loads["other"].set_result(_Loaded("other"))
    versions = Versions(
        load=lambda model, _: loads[model.name],
        is_idle=lambda _: True,
        on_change=lambda: None,
        now_ms=lambda: 0.0,
        stillness=Stillness(0.0, wall=lambda: time.time() + 3600),
        patience_s=0.02,
    )

    def reconcile() -> dict[str, str]:
        versions.reconcile(Catalogue(tmp_path).read({}), {"slow": 7, "other": 7}, list)
        return {model.name: model.state for model in versions.announcements()}

    for _ in range(3):
        assert reconcile() == {"gone": "LOADING", "other": "AVAILABLE", "slow": "LOADING"}
        assert versions.waits
        assert versions.generations == {"slow": 0, "other": 7}
    shutil.rmtree(tmp_path / "gone")
    assert reconcile() == {"other": "AVAILABLE", "slow": "LOADING"}
    unwanted, wanted = _Loaded("gone"), _Loaded("slow")
    loads["gone"].set_result(unwanted)
    loads["slow"].set_result(wanted)
    assert reconcile() == {"other": "AVAILABLE", "slow": "AVAILABLE"}
    assert not versions.waits
    assert versions.generations == {"slow": 7, "other": 7}
    assert (unwanted.is_alive, wanted.is_alive) == (False, True)
