"""The API's view of the models follows what live workers announce."""

from typing import Any

import pytest
from msgspec.structs import replace

from millrace.protocol.desired_state import DesiredState, Shadow
from millrace.protocol.errors import (
    InvalidRequest,
    ModelNotFound,
    NotReady,
    NoWorker,
    SignatureNotFound,
    Unavailable,
    VersionOutOfRange,
)
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from millrace.protocol.tensors import Signature, TensorSpec
from serving.models.registry import ModelRegistry


def worker(name: str, *models: tuple[str, int, str], error: str = "") -> WorkerAnnouncement:
    signature = Signature(inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1,)),), outputs=())
    announced = tuple(
        ModelAnnouncement(name=m, version=v, state=state, error=error, signatures={"serving_default": signature})
        for m, v, state in models
    )
    return WorkerAnnouncement(worker=name, expires_ms=0, models=announced)


class View:
    """The models, as the list of workers changes."""

    def __init__(self, *workers: WorkerAnnouncement) -> None:
        self.workers = list(workers)
        self.chance = 0.0
        self.desired_states: dict[str, DesiredState] = {}
        self.models = ModelRegistry(lambda: self.workers, lambda: self.desired_states, lambda: self.chance)

    def become(self, *workers: WorkerAnnouncement) -> None:
        self.workers = list(workers)

    def want(self, **wanted: Any) -> None:
        """Set what is wanted of the model m."""
        self.desired_states = {"m": DesiredState(model="m", **wanted)}

    def drawn(self, *chances: float) -> list[int]:
        """The versions that answer requests which name none, as chance has it."""
        drawn = []
        for chance in chances:
            self.chance = chance
            drawn.append(self.models.find("m").version)
        return drawn


def test_the_newest_available_version_is_the_default() -> None:
    view = View(worker("w", ("m", 2, "AVAILABLE"), ("m", 9, "AVAILABLE"), ("m", 10, "LOADING")))
    assert view.models.find("m").version == 9
    assert view.models.find("m", 2).version == 2


def test_one_worker_that_has_it_is_enough() -> None:
    view = View(worker("a", ("m", 1, "AVAILABLE")), worker("b", ("m", 1, "LOADING")))
    assert view.models.find("m").version == 1
    view.become(worker("b", ("m", 1, "LOADING")), worker("a", ("m", 1, "AVAILABLE")))
    assert view.models.find("m").version == 1


def test_a_model_nobody_has_heard_of_is_not_found() -> None:
    view = View(worker("w", ("m", 1, "AVAILABLE")))
    for name, version in (("other", None), ("m", 7)):
        with pytest.raises(ModelNotFound) as caught:
            view.models.find(name, version)
        assert (caught.value.model, caught.value.version) == (name, version)


def test_a_model_whose_workers_left_is_unavailable_and_its_versions_have_ended() -> None:
    view = View(worker("w", ("m", 1, "AVAILABLE")))
    view.models.find("m")
    view.become(worker("w2", ("other", 1, "AVAILABLE")))
    with pytest.raises(NoWorker, match="no live worker has model 'm' version 1 available: its state is END"):
        view.models.find("m")
    assert [version.state for version in view.models.versions("m")] == ["END"]


@pytest.mark.parametrize("left", [(), (("m", 1, "END"),), (("m", 0, "END"),), (("m", 2, "AVAILABLE"),)])
def test_a_version_that_a_living_worker_has_no_more_is_not_found(left: tuple[tuple[str, int, str], ...]) -> None:
    view = View(worker("w", ("m", 1, "AVAILABLE"), ("other", 1, "AVAILABLE")))
    view.models.find("m")
    view.become(worker("w", *left, ("other", 1, "AVAILABLE")))
    with pytest.raises(ModelNotFound):
        view.models.find("m", 1)
    view.become(worker("w2", ("other", 1, "AVAILABLE")))
    with pytest.raises(ModelNotFound):
        view.models.find("m", 1)
    view.become(worker("w2", ("m", 1, "UNLOADING"), ("other", 1, "AVAILABLE")))
    with pytest.raises(NotReady, match="its state is UNLOADING"):
        view.models.find("m", 1)


def test_a_model_that_only_goes_has_no_latest_version() -> None:
    view = View(worker("w", ("m", 1, "UNLOADING"), ("other", 1, "AVAILABLE")))
    with pytest.raises(NotReady):
        view.models.find("m", 1)
    with pytest.raises(ModelNotFound) as caught:
        view.models.find("m")
    assert caught.value.was_here


def test_a_version_that_went_while_its_worker_left_is_not_found() -> None:
    view = View(worker("w", ("m", 1, "UNLOADING")))
    with pytest.raises(NotReady):
        view.models.find("m", 1)
    view.become(worker("w2", ("other", 1, "AVAILABLE")))
    with pytest.raises(ModelNotFound):
        view.models.find("m", 1)


def test_a_version_beyond_64_bits_is_no_version() -> None:
    view = View(worker("w", ("m", 1, "AVAILABLE")))
    for ask in (view.models.find, view.models.versions):
        with pytest.raises(VersionOutOfRange):
            ask("m", 2**63)


def test_without_any_worker_every_model_is_unavailable() -> None:
    with pytest.raises(NoWorker, match="no worker is running"):
        View().models.find("whatever")


def test_a_version_that_failed_to_load_says_why() -> None:
    view = View(worker("w", ("m", 1, "END"), error="the file is damaged"))
    with pytest.raises(NoWorker, match="the file is damaged"):
        view.models.find("m")


@pytest.mark.parametrize(
    ("states", "ready"),
    [
        ((), False),
        (("LOADING",), False),
        (("AVAILABLE", "LOADING"), False),
        (("AVAILABLE", "END"), True),
        (("END",), False),
    ],
)
def test_ready_means_that_something_is_available_and_no_model_loads_its_first_version(
    states: tuple[str, ...], ready: bool
) -> None:
    view = View(worker("w", *((f"m{i}", 1, state) for i, state in enumerate(states))))
    assert view.models.is_ready is ready


def test_a_state_from_another_version_of_ours_hurts_nobody() -> None:
    view = View(worker("a", ("m", 1, "HOVERING")), worker("b", ("m", 1, "HOVERING"), ("n", 1, "AVAILABLE")))
    assert view.models.find("n").version == 1
    with pytest.raises(NoWorker, match="its state is HOVERING"):
        view.models.find("m")


def test_an_unknown_signature_is_named() -> None:
    with pytest.raises(SignatureNotFound, match='"odd" not found'):
        View(worker("w", ("m", 1, "AVAILABLE"))).models.find("m").signature("odd")


def test_a_model_that_has_a_version_stays_ready_while_it_loads_the_next() -> None:
    assert View(worker("w", ("m", 1, "AVAILABLE"), ("m", 2, "LOADING"))).models.is_ready


def test_a_model_that_is_loaded_later_does_not_make_the_server_unready() -> None:
    view = View(worker("w", ("m", 1, "AVAILABLE")))
    assert view.models.is_ready
    view.become(worker("w", ("m", 1, "AVAILABLE"), ("n", 1, "LOADING")))
    assert view.models.is_ready
    view.become(worker("w", ("m", 1, "UNLOADING"), ("n", 1, "LOADING")))
    assert not view.models.is_ready


def test_the_newest_version_waits_for_the_workers_that_serve_an_older_one_and_load_it_still() -> None:
    both = ("m", 1, "AVAILABLE"), ("m", 2, "AVAILABLE")
    view = View(worker("a", *both), worker("b", ("m", 1, "AVAILABLE"), ("m", 2, "LOADING")))
    assert view.models.find("m").version == 1
    assert view.models.find("m", 2).version == 2
    view.become(worker("a", *both), worker("b", ("m", 1, "AVAILABLE"), ("m", 2, "END")))
    assert view.models.find("m").version == 2


def test_the_newest_version_waits_for_workers_that_have_perhaps_not_seen_it_but_not_for_long() -> None:
    older, newer = worker("w", ("m", 1, "AVAILABLE"), ("m", 2, "AVAILABLE")).models
    has_both = replace(worker("a"), models=(older, replace(newer, available_ms=10_000)))
    silent = worker("b", ("m", 1, "AVAILABLE"))
    view = View(has_both, replace(silent, sent_ms=12_000))
    assert view.models.find("m").version == 1
    view.become(has_both, replace(silent, sent_ms=13_000))
    assert view.models.find("m").version == 2


def test_a_worker_that_starts_does_not_take_requests_from_the_newest_version() -> None:
    view = View(worker("a", ("m", 1, "AVAILABLE"), ("m", 2, "AVAILABLE")), worker("new", ("m", 2, "LOADING")))
    assert view.models.find("m").version == 2


def test_a_version_that_waits_for_a_worker_is_taken_where_no_older_one_is_left() -> None:
    older = ("m", 1, "AVAILABLE")
    view = View(worker("a", ("m", 2, "AVAILABLE")), worker("b", older, ("m", 2, "LOADING")))
    assert view.models.find("m").version == 1
    view.become(worker("a", ("m", 2, "AVAILABLE")), worker("b", ("m", 1, "UNLOADING"), ("m", 2, "LOADING")))
    assert view.models.find("m").version == 2


def two_versions() -> View:
    return View(worker("w", ("m", 1, "AVAILABLE"), ("m", 2, "AVAILABLE")))


def test_requests_that_name_no_version_are_shared_out_by_weight() -> None:
    view = two_versions()
    view.want(weights={1: 3, 2: 1})
    assert view.drawn(0.0, 0.74, 0.75, 0.999999) == [1, 1, 2, 2]
    assert view.models.find("m", 1).version == 1


def test_a_version_of_weight_0_and_one_without_weight_are_sent_nothing() -> None:
    view = View(worker("w", *(("m", version, "AVAILABLE") for version in (1, 2, 3))))
    view.want(weights={1: 0, 2: 5})
    assert set(view.drawn(0.0, 0.5, 1 - 2**-53)) == {2}


def test_the_weight_of_a_version_that_is_not_available_falls_to_the_others() -> None:
    view = View(worker("w", ("m", 1, "AVAILABLE"), ("m", 2, "UNLOADING")))
    view.want(weights={1: 1, 2: 99})
    assert view.drawn(0.0, 0.99) == [1, 1]
    view.want(weights={2: 99})
    assert view.drawn(0.5) == [1]


def test_a_label_leads_to_its_version() -> None:
    view = two_versions()
    view.want(labels={"stable": 1})
    assert view.models.find("m", label="stable").version == 1
    view.want(labels={"stable": 2})
    assert view.models.find("m", label="stable").version == 2
    with pytest.raises(InvalidRequest, match="Unrecognized servable version label: canary"):
        view.models.find("m", label="canary")
    with pytest.raises(ModelNotFound):
        view.models.find("other", label="stable")


def test_what_is_set_at_run_time_wins_over_the_labels_of_the_configuration() -> None:
    view = two_versions()
    first, second = view.workers[0].models
    labelled = (replace(first, version_labels=("stable", "old")), replace(second, version_labels=("canary",)))
    view.become(replace(view.workers[0], models=labelled))
    view.want(labels={"stable": 2})
    assert view.models.labels("m") == {"stable": 2, "old": 1, "canary": 2}


def test_the_other_versions_have_a_shadow_while_it_is_available() -> None:
    view = two_versions()
    view.want(shadow=Shadow(2, 25))
    shadow = view.models.find("m", 1).shadow
    assert shadow
    assert (shadow.model.version, shadow.share) == (2, 0.25)
    assert view.models.find("m", 2).shadow is None
    view.become(worker("w", ("m", 1, "AVAILABLE"), ("m", 2, "UNLOADING")))
    assert view.models.find("m", 1).shadow is None


def test_before_the_queue_has_answered_nothing_is_said_of_models() -> None:
    known = False
    models = ModelRegistry(lambda: (), is_known=lambda: known)
    for ask in (
        lambda: models.find("m"),
        lambda: models.versions("m"),
        lambda: models.labels("m"),
        lambda: models.find("m", label="stable"),
        models.names,
    ):
        with pytest.raises(Unavailable, match="has not answered since the server started"):
            ask()
    assert not models.is_ready
    known = True
    assert models.names() == []
    with pytest.raises(ModelNotFound):
        models.versions("m")
    with pytest.raises(NoWorker, match="no worker is running"):
        models.find("m")
