"""Roll-outs that decide, against a server that is scripted: what is read, what is decided, and what is left behind."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from millrace_client.errors import ConnectionFailed, InvalidRequest
from millrace_client.rollout import Rollout
from millrace_client.rolloutnumbers import Growth
from millrace_client.rolloutplan import Plan, conditions_of, least_of, percent_of, seconds_of, starting_with, steps_of

BOUNDS = ("0.01", "0.05", "+Inf")


def metrics(ok: int, failed: int = 0, within: tuple[int, ...] = (), agreed: int = 0, differed: int = 0) -> str:
    """The text of `/metrics` for version 2 of m, beside that of another version and model."""
    counts = within or (ok,) * len(BOUNDS)
    of = 'model="m",version="2"'
    return "\n".join(
        [
            'millrace_requests_total{model="m",protocol="oip",status="500",version="1"} 99.0',
            'millrace_requests_total{model="n",protocol="oip",status="500",version="2"} 99.0',
            f'millrace_requests_total{{model="m",protocol="oip",status="200",version="2"}} {ok}.0',
            f'millrace_requests_total{{model="m",protocol="tfs",status="500",version="2"}} {failed}.0',
            *(
                f'millrace_request_duration_seconds_bucket{{le="{bound}",{of}}} {count}.0'
                for bound, count in zip(BOUNDS, counts, strict=True)
            ),
            f'millrace_shadow_rows_total{{model="m",outcome="agreed",version="2"}} {agreed}.0',
            f'millrace_shadow_rows_total{{model="m",outcome="differed",version="2"}} {differed}.0',
        ]
    )


def test_what_grew_is_counted_over_servers_and_their_restarts() -> None:
    growth = Growth("m", 2)
    growth.feed([metrics(100), None])
    growth.feed([metrics(150, 10, (90, 130, 150)), metrics(1000)])
    growth.feed([metrics(20), metrics(1010, agreed=3, differed=1)])
    numbers = growth.numbers
    assert (numbers.requests, numbers.failed, numbers.answered) == (50 + 10 + 20 + 10, 10, 80)
    assert numbers.errors == pytest.approx(1 / 9)
    assert numbers.agreement == 0.75
    growth.begin()
    assert growth.numbers.requests == 0


@pytest.mark.parametrize(("share", "seconds"), [(0.5, 0.01 * 50 / 60), (0.75, 0.01 + 0.04 * 15 / 30), (0.99, math.inf)])
def test_percentiles_are_as_exact_as_the_buckets(share: float, seconds: float) -> None:
    growth = Growth("m", 2)
    growth.feed([metrics(0)])
    growth.feed([metrics(100, 0, (60, 90, 100))])
    assert growth.numbers.percentile(share) == pytest.approx(seconds)


def test_conditions_steps_and_times_are_read() -> None:
    found = conditions_of("p99<20ms, errors < 0.1%,agreement>0.99, p999<1.5s")
    assert [(each.name, each.is_below, each.bound) for each in found] == [
        ("p99", True, 0.02),
        ("errors", True, 0.001),
        ("agreement", False, 0.99),
        ("p999", True, 1.5),
    ]
    assert starting_with(percent_of("5%"), steps_of("5,25,100")) == (5, 25, 100)
    assert starting_with(10, steps_of("5,25,100")) == (10, 25, 100)
    assert [seconds_of(text) for text in ("2m", "0.5s", "250ms", "1h")] == [120, 0.5, 0.25, 3600]


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *((conditions_of, text) for text in ("p99>20ms", "p99<20", "p99<20%", "errors>1%", "agreement<0.9", "speed<1")),
        *((conditions_of, text) for text in ("p100<20ms", "p05<1s", "p000<1s", "errors<nan", "p99<1e9ms", "")),
        *((least_of, text) for text in ("0", "-1", "many")),
        (percent_of, "nan"),
        *((steps_of, text) for text in ("5,25", "25,5,100", "0,100", "5,500", "five")),
        *((seconds_of, text) for text in ("2", "2 days", "")),
    ],
)
def test_what_cannot_be_meant_is_refused(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(ValueError, match=r"is no|above 0|grow|or more|could not convert"):
        read(text)


class Server:
    """Versions 1 and 2 of model m. Each look at the metrics adds what `each_look` says of the share that 2 has."""

    def __init__(self, each_look: Callable[[float], dict[str, int]]) -> None:
        self.document: dict[str, Any] = {"weights": {}, "shadow": None, "rollout": None, "generation": 1}
        self.versions = [1, 2]
        self.counted: dict[str, int] = {"ok": 0}
        self.shares: list[float] = []
        self.each_look = each_look
        self.now = 0.0
        self.is_away = False
        self.before_look: Callable[[], None] = lambda: None

    def traffic(self, model: str) -> dict[str, Any]:
        return self.document

    def set_traffic(self, model: str, document: dict[str, Any]) -> dict[str, Any]:
        if self.is_away:
            self.is_away = False
            raise ConnectionFailed("refused")
        if not {int(version) for version in document["weights"]} <= {*self.versions}:
            raise InvalidRequest("requests cannot be sent to version 2")
        self.document = {**document, "generation": self.document["generation"] + 1}
        self.shares.append(document["weights"].get("2", 0.0))
        return self.document

    def available(self, model: str) -> list[int]:
        return self.versions

    def metrics(self) -> list[str | None]:
        more = self.each_look(self.document["weights"].get("2", 0.0))
        self.counted = {name: self.counted.get(name, 0) + more.get(name, 0) for name in {*self.counted, *more}}
        return [metrics(**self.counted)]  # type: ignore[arg-type]  # it has no times

    def sleep(self, seconds: float) -> None:
        self.before_look()
        self.now += seconds

    def roll_out(self, promote_if: str = "p99<20ms, errors<1%, agreement>0.9") -> tuple[bool, list[str]]:
        said: list[str] = []
        plan = Plan(version=2, steps=(5, 25, 100), every_s=120, conditions=conditions_of(promote_if), least=50)
        rollout = Rollout(self, "m", plan, said.append, clock=lambda: self.now, sleep=self.sleep)
        return rollout.run(), said


def fine(share: float) -> dict[str, int]:
    return {"ok": 10, "agreed": 10 if share < 100 else 0}


def test_a_good_version_is_promoted_step_by_step() -> None:
    server = Server(fine)
    assert server.roll_out()[0]
    assert server.shares == [5, 25, 100, 1]
    assert server.document["weights"] == {"2": 1}
    assert (server.document["shadow"], server.document["rollout"]["state"]) == (None, "promoted")
    assert 3 * 120 <= server.now < 3 * 120 + 30


@pytest.mark.parametrize(
    ("each_look", "why"),
    [
        (lambda _: {"ok": 10, "agreed": 10, "failed": 1}, "errors<1% does not hold: it is 0.09"),
        (lambda _: {"ok": 10, "agreed": 8, "differed": 2}, "agreement>0.9 does not hold: it is 0.8"),
    ],
)
def test_a_version_that_fails_or_disagrees_goes_back_before_the_step_is_over(
    each_look: Callable[[float], dict[str, int]], why: str
) -> None:
    server = Server(each_look)
    server.document["shadow"] = {"version": 1, "percent": 3.0}
    server.document["weights"] = {"1": 3.0}
    was_promoted, said = server.roll_out()
    assert not was_promoted
    assert why in said[-1]
    assert (server.document["weights"], server.document["shadow"]) == ({"1": 3.0}, {"version": 1, "percent": 3.0})
    assert server.document["rollout"]["state"] == "went back"
    assert why in server.document["rollout"]["reason"]
    assert server.now < 120


def test_without_enough_requests_it_waits_and_says_so() -> None:
    server = Server(lambda share: fine(share) if server.now > 500 else {"ok": 1 if server.now < 200 else 0})
    was_promoted, said = server.roll_out()
    assert was_promoted
    assert [text for text in said if text.startswith("waits: ")]
    assert server.now > 500


def test_it_goes_on_where_it_was_left() -> None:
    server = Server(fine)

    class Killed(Exception):
        pass

    def kill() -> None:
        if server.shares[-1] == 25:
            raise Killed

    server.before_look = kill
    with pytest.raises(Killed):
        server.roll_out()
    server.before_look = lambda: None
    was_promoted, said = server.roll_out()
    assert was_promoted
    assert said[0] == "goes on with step 2 of 3"
    assert server.shares == [5, 25, 25, 100, 1]
    assert server.document["rollout"]["weights_before"] == {"1": 1.0}


def test_whoever_sets_the_traffic_otherwise_ends_it() -> None:
    server = Server(fine)

    def meddle() -> None:
        if server.shares[-1] == 25:
            server.set_traffic("m", {"weights": {"1": 1.0}, "shadow": None, "rollout": None})

    server.before_look = meddle
    was_promoted, said = server.roll_out()
    assert not was_promoted
    assert "somebody else" in said[-1]
    assert server.document["weights"] == {"1": 1.0}


def test_a_version_that_is_gone_is_left() -> None:
    server = Server(fine)
    server.before_look = lambda: server.versions.remove(2) if server.shares[-1] == 25 and 2 in server.versions else None
    was_promoted, said = server.roll_out()
    assert not was_promoted
    assert "not available any more" in said[-1]
    assert server.document["weights"] == {"1": 1.0}


def test_a_server_that_does_not_answer_is_asked_again() -> None:
    server = Server(fine)
    looks = 0

    def fail_at_times(model: str) -> list[int]:
        nonlocal looks
        looks += 1
        if looks == 4:
            raise ConnectionFailed("refused")
        return [1, 2]

    server.available = fail_at_times  # type: ignore[method-assign]
    was_promoted, said = server.roll_out()
    assert was_promoted
    assert [text for text in said if "asked again" in text]


def test_a_server_that_is_away_when_a_step_ends_is_asked_again() -> None:
    server = Server(fine)

    def away_at_the_end_of_a_step() -> None:
        server.is_away = len(server.shares) == 1 and 100 < server.now < 121

    server.before_look = away_at_the_end_of_a_step
    was_promoted, said = server.roll_out()
    assert was_promoted
    assert [text for text in said if "asked again: refused" in text]
    assert server.shares == [5, 25, 100, 1]


def test_it_goes_back_when_all_versions_were_gone_for_a_while() -> None:
    server = Server(fine)
    looks = 0

    def lose_all_and_get_one_back() -> None:
        nonlocal looks
        looks += 1
        server.versions = [1, 2] if looks < 3 else [] if looks < 10 else [1]

    server.before_look = lose_all_and_get_one_back
    server.document["weights"] = {"1": 1.0, "3": 1.0}
    server.versions = [1, 2, 3]
    server.set_traffic("m", server.document)
    was_promoted, _ = server.roll_out()
    assert not was_promoted
    assert server.document["weights"] == {"1": 1.0}
    assert server.document["rollout"]["state"] == "went back"


def test_one_that_was_left_at_its_first_step_goes_back_when_its_version_is_gone() -> None:
    server = Server(fine)

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    server.before_look = kill
    with pytest.raises(Killed):
        server.roll_out()
    server.versions, server.before_look = [1], lambda: None
    was_promoted, said = server.roll_out()
    assert not was_promoted
    assert "cannot be sent to version 2" in said[-1]
    assert server.document["rollout"]["state"] == "went back"


def test_what_cannot_begin_says_why_and_changes_nothing() -> None:
    server = Server(fine)
    server.versions = [2]
    with pytest.raises(InvalidRequest, match="no other version"):
        server.roll_out()
    server.versions = [1]
    with pytest.raises(InvalidRequest, match="version 2 of m is not available"):
        server.roll_out()
    server.document["rollout"] = {"state": "running", "version": 3}
    with pytest.raises(InvalidRequest, match="version 3 of m is being rolled out"):
        server.roll_out()
    assert server.shares == []
