"""One run: Locust as a process of its own (and its workers), and what it counted."""

import importlib.util
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from millrace_client.load.environment import environment
from millrace_client.load.faults import CannotRun
from millrace_client.load.options import RunOptions, run_arguments
from millrace_client.load.results import MAX_SEND_LAG_MS, Counted, Setting, result
from millrace_client.load.server_counts import Counts, counts
from millrace_client.load.tally import Tally
from millrace_client.load.targets import http_ask, target

_CANNOT_RUN = 4  # what the users' module ends with
LOCUSTFILE = Path(__file__).with_name("locustfile.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """Who sends: `users` in all, each with one connection, in that many processes.

    `counts_url` is where the server's statistics or metrics are read, if not at the host; `extra` goes to Locust as it
    is.
    """

    host: str
    users: int
    processes: int
    objective_ms: float | None = None
    max_send_lag_ms: float = MAX_SEND_LAG_MS
    counts_url: str = ""
    extra: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    def run(self, options: RunOptions) -> dict[str, Any]:
        """The document of a run (`results`). Raises `CannotRun`, with Locust's own words where it has some."""
        self._check(options)
        started_at = datetime.now(UTC).isoformat(timespec="seconds")
        setting = Setting(
            host=self.host,
            protocol=options.protocol,
            models=options.models,
            load=self._load(options),
            seconds=options.seconds,
            started_at=started_at,
            command=self.command,
            environment=environment(),
            objective_ms=self.objective_ms,
            max_send_lag_ms=self.max_send_lag_ms,
        )
        before = self._server_counts(options)
        counted = self._counted(options)
        if after := self._server_counts(options):
            counted = replace(counted, server_ms=after.means_ms(before), server_source=after.source)
        return result(setting, counted)

    def at(self, options: RunOptions, rate: float, seconds: float) -> dict[str, Any]:
        """A run at another rate."""
        return self.run(replace(options, rate=f"{rate:g}", trace=None, seconds=seconds))

    def _check(self, options: RunOptions) -> None:
        try:
            if options.is_open and not len(options.times()):
                raise CannotRun("the schedule has no requests: raise --rate or --for")
        except (ValueError, OSError) as error:
            raise CannotRun(str(error)) from error

    def _counted(self, options: RunOptions) -> Counted:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "result.json"
            command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary"]
            command += ["--host", self.host, "--users", str(self.users), "--spawn-rate", str(self.users)]
            command += ["--processes", str(self.processes)] * (self.processes > 1)
            command += ["--exit-code-on-error", "0", "--result", str(file), *run_arguments(options), *self.extra]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if done.returncode == _CANNOT_RUN or not file.exists():
                raise CannotRun(_why(done.stdout))
            document = json.loads(file.read_text(encoding="utf-8"))
        return Counted(
            tally=Tally.of(document["tally"]), cpu=tuple(document["cpu"]), outstanding=document["outstanding"]
        )

    def _load(self, options: RunOptions) -> dict[str, Any]:
        rate = float(options.rate) if options.rate and options.rate.replace(".", "", 1).isdigit() else options.rate
        schedule = {"rate": rate, "arrivals": options.arrivals, "seed": options.seed} if options.rate else {}
        traced = {"trace": str(options.trace)} if options.trace else {}
        return {
            "mode": "open" if options.is_open else "closed",
            **schedule,
            **traced,
            "users": self.users,
            "processes": self.processes,
            "warm_up_s": options.warm_up_s,
            "batch": options.payload.batch,
        }

    def _server_counts(self, options: RunOptions) -> Counts | None:
        if not self.counts_url and options.protocol.endswith("grpc"):
            return None
        return counts(http_ask(target(self.counts_url or self.host, "oip-json", options.models[0]).url), options.models)


def require_locust() -> None:
    """Raises `ModuleNotFoundError`, which says what to install. Locust is not imported: it patches the process."""
    if importlib.util.find_spec("locust") is None:
        raise ModuleNotFoundError("locust is not installed: pip install './client[load]'", name="locust")


def _why(printed: str) -> str:
    """The reason among what Locust printed."""
    said = [line.partition("load test: ")[2] for line in printed.splitlines() if "load test: " in line]
    return said[0] if said else f"Locust ended without a result:\n{printed[-2000:]}"
