"""A roll-out that decides: a version gets a larger share step by step, while all that must hold does.

    share 5 % ──every──► 25 % ──every──► 100 % ──every──► promoted
      │ a condition does not hold, or the version is not available any more
      └──► went back: the traffic is as it was before, and the record says why

Where it stands is kept by the server, beside the traffic (`PUT /v1/models/<model>/traffic`): whoever runs the same
roll-out again goes on with the step that was reached. Whoever sets the traffic otherwise ends it.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from millrace_client.errors import InvalidRequest, MillraceError, NotAllowed, NotAuthenticated
from millrace_client.rolloutnumbers import Growth
from millrace_client.rolloutplan import Condition, Plan

_LOOKS = 20  # within one step
_SHORTEST_LOOK_S, _LONGEST_LOOK_S = 0.05, 10.0
_LONGEST_REASON = 500
_AGAIN_S = 1.0


class RolloutServer(Protocol):
    """What is asked of the server. All methods raise `MillraceError`."""

    def traffic(self, model: str) -> dict[str, Any]:
        """The document of `GET /v1/models/<model>/traffic`."""

    def set_traffic(self, model: str, document: dict[str, Any]) -> dict[str, Any]:
        """Set it; what it is then."""

    def available(self, model: str) -> list[int]:
        """The model's versions that answer."""

    def metrics(self) -> list[str | None]:
        """The metrics of each of its processes' addresses; None for one that does not answer."""


class _Over(Exception):
    """Somebody else has set the traffic."""


class Rollout:
    """Carries out a plan. `say` is told what happens; `clock` counts seconds, `sleep` waits."""

    def __init__(
        self,
        server: RolloutServer,
        model: str,
        plan: Plan,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._server = server
        self._model = model
        self._plan = plan
        self._say = say
        self._clock = clock
        self._sleep = sleep
        self._growth = Growth(model, plan.version)
        self._record: dict[str, Any] = {}
        self._generation = 0
        self._has_begun = False

    def run(self) -> bool:
        """Promote the version, or go back; whether it was promoted. Raises `InvalidRequest` for what cannot begin."""
        step = self._begin()
        try:
            for number in range(step, len(self._plan.steps)):
                if reason := self._enter(number) or self._watch(number):
                    self._go_back(reason)
                    return False
            self._promote()
        except _Over:
            self._say("somebody else has set the traffic: the roll-out ends, and the traffic stays as it is")
            return False
        return True

    def _begin(self) -> int:
        """The step to begin with: that of a roll-out which was left, or the first."""
        plan, now = self._plan, self._server.traffic(self._model)
        record = now.get("rollout") or {}
        if record.get("state") == "running" and record.get("version") == plan.version:
            if tuple(record["steps"]) != plan.steps:
                raise InvalidRequest(f"version {plan.version} is rolled out already, in the steps {record['steps']}")
            self._record, self._has_begun = record, True
            self._say(f"goes on with step {record['step'] + 1} of {len(plan.steps)}")
            return int(record["step"])
        if record.get("state") == "running":
            raise InvalidRequest(f"version {record['version']} of {self._model} is being rolled out")
        available = self._server.available(self._model)
        if plan.version not in available:
            raise InvalidRequest(f"version {plan.version} of {self._model} is not available; available: {available}")
        before = {
            version: weight for version, weight in now["weights"].items() if weight and int(version) != plan.version
        }
        others = [version for version in available if version != plan.version]
        if not before and not others:
            raise InvalidRequest(f"there is no other version of {self._model} to go back to")
        self._record = {
            "version": plan.version,
            "state": "running",
            "steps": list(plan.steps),
            "promote_if": plan.promote_if,
            "every_s": plan.every_s,
            "weights_before": before or {str(max(others)): 1.0},
            "shadow_before": now["shadow"],
        }
        return 0

    # The steps

    def _enter(self, number: int) -> str:
        """Give the version that step's share; why it cannot have a larger one."""
        share = self._plan.steps[number]
        self._say(f"version {self._plan.version} of {self._model} gets {share:g} % of the requests")
        self._record = {**self._record, "step": number}
        before: dict[str, float] = self._record["weights_before"]
        total = sum(before.values())
        weights = {version: weight / total * (100 - share) for version, weight in before.items()}
        compares = self._plan.compares and share < 100
        shadow = {"version": self._plan.version, "percent": self._plan.shadow_percent} if compares else None
        weights[str(self._plan.version)] = share
        while True:
            try:
                self._set(weights, shadow)
                return ""
            except (NotAllowed, NotAuthenticated):
                raise
            except InvalidRequest as error:
                if not self._has_begun:
                    raise
                return str(error)
            except MillraceError as error:
                if not self._has_begun:
                    raise
                self._wait_for_an_answer(error)

    def _watch(self, number: int) -> str:
        """Why to go back; "" where all held for the step's time. Without enough requests it waits for more."""
        plan = self._plan
        look_s = min(_LONGEST_LOOK_S, max(_SHORTEST_LOOK_S, plan.every_s / _LOOKS))
        self._growth.feed(self._server.metrics())
        self._growth.begin()
        ends, has_said = self._clock() + plan.every_s, ""
        while True:
            self._sleep(look_s)
            try:
                self._check_still_ours()
                self._growth.feed(self._server.metrics())
                is_available = plan.version in self._server.available(self._model)
            except MillraceError as error:
                self._say(f"the server does not answer, and is asked again: {error}")
                continue
            if not is_available:
                return "it is not available any more"
            waiting, violated = self._judge(plan.steps[number])
            if violated:
                return violated
            if self._clock() >= ends:
                if not waiting:
                    return ""
                if waiting != has_said:
                    self._say(f"waits: {waiting}")
                    has_said = waiting

    def _judge(self, share: float) -> tuple[str, str]:
        """What there is too little of to decide by, and which condition does not hold."""
        numbers, waiting = self._growth.numbers, ""
        for condition in self._conditions(share):
            value = condition.value(numbers, self._plan.least)
            if value is None:
                seen = condition.seen(numbers)
                waiting = waiting or f"{condition.name} is known of {seen:.0f}, and {self._plan.least} are needed"
            elif not condition.holds(value):
                return "", f"{condition.text} does not hold: it is {condition.shown(value)}"
        return waiting, ""

    def _conditions(self, share: float) -> Sequence[Condition]:
        """With all requests at the version, there is nothing to compare its answers with."""
        return [each for each in self._plan.conditions if share < 100 or each.name != "agreement"]

    def _check_still_ours(self) -> None:
        now = self._server.traffic(self._model)
        if now["generation"] <= self._generation:  # another API process may be a heartbeat behind
            return
        record, step = now.get("rollout") or {}, self._record["step"]
        if (record.get("state"), record.get("version"), record.get("step")) != ("running", self._plan.version, step):
            raise _Over

    # The end

    def _promote(self) -> None:
        self._record = {**self._record, "state": "promoted"}
        self._insist({str(self._plan.version): 1.0}, self._shadow_before())
        self._say(f"promoted: version {self._plan.version} of {self._model} answers all requests")

    def _go_back(self, reason: str) -> None:
        self._record = {**self._record, "state": "went back", "reason": reason[:_LONGEST_REASON]}
        self._insist(self._record["weights_before"], self._shadow_before())
        self._say(f"went back from version {self._plan.version} of {self._model}: {reason}")

    def _shadow_before(self) -> dict[str, Any] | None:
        shadow: dict[str, Any] | None = self._record["shadow_before"]
        return None if shadow and shadow["version"] == self._plan.version else shadow

    def _insist(self, weights: dict[str, float], shadow: dict[str, Any] | None) -> None:
        """Set what was decided, as soon as the server can. Versions that are gone meanwhile are left out."""
        wanted = weights
        while True:
            try:
                self._set(wanted, shadow)
                return
            except (NotAllowed, NotAuthenticated):
                raise
            except MillraceError as error:
                self._wait_for_an_answer(error)
            with contextlib.suppress(MillraceError):
                self._check_still_ours()
                available = self._server.available(self._model)
                wanted = {version: weights[version] for version in weights if int(version) in available} or weights
                shadow = shadow if shadow and shadow["version"] in available else None

    def _wait_for_an_answer(self, error: MillraceError) -> None:
        self._say(f"the server does not do it, and is asked again: {error}")
        self._sleep(_AGAIN_S)

    def _set(self, weights: dict[str, float], shadow: dict[str, Any] | None) -> None:
        document = {"weights": weights, "shadow": shadow, "rollout": self._record}
        self._generation = self._server.set_traffic(self._model, document)["generation"]
        self._has_begun = True
