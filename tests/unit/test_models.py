"""The API's view of the models follows what live workers announce."""

import pytest

from millrace.protocol.errors import ModelNotFound, NoWorker, SignatureNotFound
from millrace.protocol.messages import ModelAnnouncement, WorkerAnnouncement
from millrace.protocol.tensors import Signature, TensorSpec
from serving.models import Models


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
        self.models = Models(lambda: self.workers)

    def become(self, *workers: WorkerAnnouncement) -> None:
        self.workers = list(workers)


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
def test_ready_means_that_something_is_available_and_nothing_loads(states: tuple[str, ...], ready: bool) -> None:
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
