"""The order in which a stack stops, and how long each part may take."""

import contextlib
from collections.abc import Mapping

from millrace.stopping import AFTER_DRAIN_S, DRAIN_TIMEOUT_S, REDIS_STOP_S

_DRAIN_TIMEOUTS = {"api": "MILLRACE_SERVING_DRAIN_TIMEOUT_S", "worker": "MILLRACE_WORKER_DRAIN_TIMEOUT_S"}


def stop_timeouts(environ: Mapping[str, str]) -> dict[str, float]:
    """The seconds that each role may take, in the order in which they stop.

    The API comes first, so that nothing new comes in; Redis last, so that what was taken can be answered. Jobs programs
    give back what they work on; the next start goes on with it. Stopping the stack takes no longer than the sum.
    """
    drains = {role: _drain_timeout_s(environ.get(variable, "")) for role, variable in _DRAIN_TIMEOUTS.items()}
    times = {role: drain_s + AFTER_DRAIN_S for role, drain_s in drains.items()}
    return times | {"jobs": AFTER_DRAIN_S, "redis": REDIS_STOP_S}


def _drain_timeout_s(text: str) -> float:
    with contextlib.suppress(ValueError):  # the program itself refuses what is no number
        return max(0.0, float(text))
    return DRAIN_TIMEOUT_S
