"""When a starting stack is ready: every model of the repository is served, or it is known why it is not."""

import contextlib
import http.client
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from ops.errors import ExampleError

SILENCE_S = 20.0


class LocalApi:
    """Asks the API, which is on this machine, whatever proxy is set.

    `base` is its URL. `key` is an API key, "" for none. `certificate` is a client's own, a PEM file and its key's, for
    an API that wants one.
    """

    def __init__(self, base: str, key: str = "", certificate: Sequence[str] = ()) -> None:
        self.base = base
        self._headers = {"X-API-Key": key} if key else {}
        # We have started it ourselves: whatever name is in its certificate, it is ours.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if certificate:
            context.load_cert_chain(*certificate)
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def open(self, path: str, data: bytes | None = None, *, timeout_s: float) -> Any:
        """The response. Raises what `urllib.request` does."""
        request = urllib.request.Request(self.base + path, data, self._headers)
        return self._opener.open(request, timeout=timeout_s)


class ModelState(NamedTuple):
    """The state of a model's newest version, and why it is not served."""

    state: str = ""
    error: str = ""


class Readiness:
    """Judges the states that the API reports while the stack starts. `now` is a monotonic time in seconds.

    A model is settled when it is available, or has ended and its worker says why. A model that has ended without a
    reason is only missing from the reports: its worker may be busy loading and report again. We wait for it, but for
    20 s at most where other models are available.
    """

    def __init__(self, models: Collection[str]) -> None:
        self._models = models
        self._states: dict[str, ModelState] = {}
        self._silent_since: dict[str, float] = {}

    def is_settled(self, states: Mapping[str, ModelState], now: float) -> bool:
        """Take in what the API reports; whether nothing more is to be waited for."""
        self._states.update(states)
        settled = [self._is_settled(name, now) for name in self._models]  # each is looked at: its silence is measured
        return all(settled)

    def _is_settled(self, name: str, now: float) -> bool:
        state, error = self._states.get(name, ModelState())
        if state == "AVAILABLE" or (state == "END" and error):
            return True
        if state != "END":
            self._silent_since.pop(name, None)
            return False
        return now - self._silent_since.setdefault(name, now) >= SILENCE_S and bool(self.available)

    @property
    def available(self) -> list[str]:
        """The models that are served."""
        return [name for name in self._models if self._states.get(name, ModelState()).state == "AVAILABLE"]

    @property
    def missing(self) -> dict[str, str]:
        """Why each of the other models is not served, and what else is reported to be no model."""
        others = [name for name, (state, error) in self._states.items() if state == "END" and error]
        return {name: self._why(name) for name in dict.fromkeys((*self._models, *others)) if name not in self.available}

    def _why(self, name: str) -> str:
        state, error = self._states.get(name, ModelState())
        if error:
            return error
        if state in ("", "END"):
            return "no worker reports it"
        return f"its state is {state}"


def states(api: LocalApi) -> dict[str, ModelState] | None:
    """The models as the API knows them; None while it does not answer."""
    with (
        contextlib.suppress(OSError, http.client.HTTPException, ValueError),
        api.open("/v1/models", timeout_s=2) as response,
    ):
        models = json.load(response)["models"]
        newest = {model["name"]: model["versions"][0] for model in models}
        return {name: ModelState(found["state"], found["error_message"]) for name, found in newest.items()}
    return None


def answers_example(api: LocalApi, model: str, example: Mapping[str, Any]) -> bool:
    """Whether the model has answered its example; False where trying again can help. Raises `ExampleError`."""
    path = f"/v1/models/{quote(model, safe='')}:predict"
    try:
        with api.open(path, json.dumps(example).encode(), timeout_s=10) as response:
            return bool(response.status == 200)
    except urllib.error.HTTPError as error:
        if error.code in (429, 503, 504):
            return False
        raise ExampleError(f"model {model!r} does not answer its own example: {error.read().decode()}") from None
    except (OSError, http.client.HTTPException):
        return False
