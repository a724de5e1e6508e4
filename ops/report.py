"""What `millrace up` says while it runs: which models are served and how to ask one, and why others are not."""

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote


class Report:
    """Writes to standard output and error. `base` is the API's URL, `grpc` its address for gRPC, if it has one.

    `is_ready` says whether it has told of a model that is served. `watched` is where the models come from.
    """

    def __init__(self, base: str, grpc: str, watched: Path | str) -> None:
        self.is_ready = False
        self._base = base
        self._also = f", gRPC at {grpc}" if grpc else ""
        self._watched = watched
        self._told: dict[str, str] = {}

    def missing(self, reasons: Mapping[str, str]) -> None:
        """Say why models are not served, each reason once."""
        for name, why in reasons.items():
            if self._told.get(name) != why:
                self.trouble(f"model {name!r} is not served: {why}")
        self._told.update(reasons)

    def trouble(self, text: str) -> None:
        """Say what went wrong, and is no reason to end."""
        print(f"millrace: {text}", file=sys.stderr, flush=True)

    def ready(self, models: Mapping[str, Mapping[str, Any]], seconds: float | None = None) -> None:
        """These models are served, so many seconds after the start; each with its example, if it has one."""
        took = "" if seconds is None else f"; {seconds:.1f} s"
        print(f"\nMillrace is ready at {self._base}{self._also}  ({', '.join(models)}{took})")
        examples = {name: json.dumps(example) for name, example in models.items() if example}
        if examples:
            name = min(examples, key=lambda name: len(examples[name]))
            print(f"\n  curl -s {self._base}/v1/models/{quote(name, safe='')}:predict -d {shlex.quote(examples[name])}")
        print("\nStop it with Ctrl-C.", flush=True)
        self.is_ready = True

    def nothing_served(self) -> None:
        """It runs, and no model is served so far."""
        print(f"\nMillrace is up at {self._base}{self._also}, and serves no model yet: it watches {self._watched}")
        print("\nStop it with Ctrl-C.", flush=True)
