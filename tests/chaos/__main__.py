"""Break the running stack and account for every request: `make chaos`.

Each scenario starts a Redis, API processes and workers, puts load on them, breaks something, and mends it. Every
request must be answered right or be refused with a stated error; none may be wrong, lost or hang. The exit status is 1
if one is, or if a limit of the scenario is missed.

    .venv/bin/python -m tests.chaos                                   # all, 100,000 requests and more: minutes
    .venv/bin/python -m tests.chaos kill_worker overload              # some
    .venv/bin/python -m tests.chaos --requests 5000 --out results     # short, and written down

`docs/explanation/delivery-guarantees.md` states the promises; `tests/acceptance/test_chaos.py` runs short forms.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.chaos import report
from tests.chaos.accounting import Result
from tests.chaos.overload import overload
from tests.chaos.scenarios import (
    callers,
    cut_connections,
    freeze_redis,
    freeze_worker,
    kill_worker,
    poison,
    restart_redis,
    stop_api,
    stop_worker,
)

SCENARIOS: dict[str, Callable[[Path, int], Result]] = {
    scenario.__name__: scenario
    for scenario in (
        kill_worker,
        freeze_worker,
        stop_worker,
        stop_api,
        restart_redis,
        freeze_redis,
        cut_connections,
        poison,
        overload,
        callers,
    )
}


def main() -> int:
    """Run the named scenarios and print their accounts; the exit status is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="tests.chaos", description="Break the running stack; count what it costs.")
    parser.add_argument("scenarios", nargs="*", help=f"which ones (default all): {', '.join(SCENARIOS)}")
    parser.add_argument(
        "--requests", type=int, default=100_000, help="requests of `callers`; the others have a tenth each"
    )
    parser.add_argument("--out", type=Path, help="a folder for chaos.md and chaos.json")
    arguments = parser.parse_args()
    if unknown := set(arguments.scenarios) - SCENARIOS.keys():
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    results: dict[str, Result] = {}
    for name in arguments.scenarios or SCENARIOS:
        requests = arguments.requests if name == "callers" else arguments.requests // 10
        print(f"{name}: {_first_line(SCENARIOS[name])}", flush=True)
        with tempfile.TemporaryDirectory(prefix="millrace-chaos-") as folder:
            results[name] = SCENARIOS[name](Path(folder), requests)
        for fact_name, fact in results[name].facts.items():
            print(f"    {fact_name}: {fact}{'' if fact.is_kept else '   <-- missed'}", flush=True)
        for reason, count in results[name].tally.reasons().most_common(5):
            print(f"    refused {count:,} x {reason}")
        for fault in results[name].faults():
            print(f"    FAULT {fault}", flush=True)
    counts = report.table(results)
    print(f"\n{counts}")
    if arguments.out:
        report.write(arguments.out, counts, results)
    return 1 if any(result.faults() or result.missed() for result in results.values()) else 0


def _first_line(scenario: Callable[..., Result]) -> str:
    return " ".join((scenario.__doc__ or "").split())


if __name__ == "__main__":
    raise SystemExit(main())
