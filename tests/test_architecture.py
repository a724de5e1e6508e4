"""Who may import whom: read from the source, and tried by importing each program beside its own extra only."""

import sys
from collections.abc import Iterable
from importlib.util import find_spec

import pytest
from packaging.utils import canonicalize_name

from tests.support.imports import (
    brought_by,
    extras_of,
    import_without,
    imports_of,
    installed,
    is_within,
    requirements,
    sources,
)
from tests.support.running import ROOT
from tests.support.wheels import reason, without_wheel

PROGRAMS = ("serving", "worker", "jobs", "training", "ops", "millrace_client", "benchmarks")


def _rooms(*names: str) -> tuple[str, ...]:
    return tuple(f"serving.{name}" for name in names)


_COMPOSITION = ("serving.__main__", "serving.api", "serving.service")
_ABOVE_ROOMS = ("serving.__main__", "serving.api", "serving.web")

# What must not be imported, by who must not.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    # Programs know the contracts, never one another. Benchmarks measure programs; nobody knows benchmarks or tests.
    "millrace": (*PROGRAMS, "tests"),
    "serving": ("worker", "jobs", "training", "ops", "millrace_client", "benchmarks", "tests"),
    "worker": ("serving", "jobs", "training", "ops", "millrace_client", "benchmarks", "tests"),
    "jobs": ("serving", "worker", "training", "ops", "millrace_client", "benchmarks", "tests"),
    "training": ("serving", "worker", "jobs", "ops", "millrace_client", "benchmarks", "tests", "millrace.broker"),
    "ops": ("serving", "worker", "jobs", "training", "millrace_client", "benchmarks", "tests"),
    "millrace_client": ("millrace", "serving", "worker", "jobs", "training", "ops", "benchmarks", "tests"),
    "benchmarks": ("tests",),
    # The contracts: what is said stands alone, and the broker carries it without looking at models.
    "millrace.artifacts": ("millrace.broker", "millrace.settings"),
    "millrace.broker": ("millrace.artifacts", "millrace.calling", "millrace.rpc", "millrace.settings"),
    # The one client of the queue beside the API's: for jobs, and for models that call models.
    "millrace.calling": ("millrace.artifacts", "millrace.jobs", "millrace.rpc", "millrace.settings"),
    # The API and the jobs program share the jobs' store, which needs neither RQ nor pyarrow, nor the queue of models.
    "millrace.jobs": ("rq", "pyarrow", "fsspec", "numpy", "millrace.artifacts", "millrace.rpc"),
    "millrace.protocol": (
        "millrace.artifacts",
        "millrace.broker",
        "millrace.calling",
        "millrace.rpc",
        "millrace.settings",
        "millrace.jobs",
    ),
    "millrace.rpc": ("millrace.artifacts", "millrace.broker", "millrace.settings"),
    # The rooms of serving: only what composes them knows all of them.
    # Frames and blocks of headers stand alone; what they carry is read above them.
    **dict.fromkeys(
        ("serving.transport.http2.frames", "serving.transport.http2.session", "serving.transport.http2.header_blocks"),
        (*_rooms("transport.budget", "transport.handler", "transport.server_parts", "access", "settings"), "asyncio"),
    ),
    "serving.transport": (*_COMPOSITION, "serving.web", "serving.protocols", "serving.queueing", "serving.models"),
    "serving.protocols": _ABOVE_ROOMS,
    "serving.queueing": (*_COMPOSITION, "serving.web", "serving.protocols", "serving.transport.http_server"),
    "serving.models": (*_COMPOSITION, "serving.web", "serving.protocols", "serving.transport.http_server"),
    "serving.monitoring": (*_COMPOSITION, "serving.web", "serving.protocols", "serving.transport.http_server"),
    "serving.payloads": (*_COMPOSITION, "serving.web", "serving.protocols", "serving.models", "serving.transport"),
    "serving.access": (*_COMPOSITION, "serving.web", "serving.protocols", "serving.transport", "serving.queueing"),
    "serving.offload": _ABOVE_ROOMS,
    "serving.tracing": (*_COMPOSITION, *_rooms("web", "protocols", "models", "access", "transport")),
    "serving.processes": (*_COMPOSITION, *_rooms("web", "protocols", "queueing", "models", "access")),
    "serving.web": ("serving.__main__", "serving.api"),
    "serving.service": _ABOVE_ROOMS,
    "serving.execution": _ABOVE_ROOMS,
    "serving.call": (*_COMPOSITION, *_rooms("transport", "protocols", "models", "access", "web")),
    "serving.routing": (*_COMPOSITION, *_rooms("transport", "queueing", "models", "web")),
    "serving.settings": _rooms("transport", "protocols", "queueing", "models", "web"),
    # A kind of job is one file that knows nothing of how it is run; formats know nothing of jobs.
    "jobs.kinds": ("rq", "jobs.program", "jobs.units", "jobs.claims", "jobs.sweeper", "jobs.advancing"),
    "jobs.formats": ("rq", "jobs.program", "jobs.units", "jobs.kinds", "jobs.rows", "jobs.models"),
    # A backend is one file that can be read without the worker.
    "worker.backends": (
        "worker.running.loop",
        "worker.process",
        "worker.loading.model",
        "worker.reconciling.versions",
        "worker.running.instances",
    ),
    # The mirror of a store of models knows files alone.
    "worker.mirroring": (
        "worker.backends",
        "worker.loading",
        "worker.process",
        "worker.processes",
        "worker.reconciling",
        "worker.running",
    ),
    # What makes Python code a model, and the way from one model to another, each without the rest of the worker.
    "worker.python": (
        "worker.calls",
        "worker.running.loop",
        "worker.loading.model",
        "worker.process",
        "worker.processes",
    ),
    "worker.calls": (
        "worker.backends",
        "worker.running.loop",
        "worker.loading.model",
        "worker.process",
        "worker.processes",
    ),
}
LIBRARIES = {"asyncio", "rq", "pyarrow", "fsspec", "numpy"}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package: str) -> None:
    found = [
        f"{module} imports {name}"
        for module, path in sources(package.partition(".")[0]).items()
        if is_within(module, package)
        for name in imports_of(path.read_text(encoding="utf-8"))
        if any(is_within(name, forbidden) for forbidden in FORBIDDEN[package])
    ]
    assert found == []


def test_the_rules_name_what_there_is() -> None:
    modules = {name for package in {*PROGRAMS, "millrace", "tests"} for name in sources(package)}
    named = {*FORBIDDEN, *(name for forbidden in FORBIDDEN.values() for name in forbidden)} - LIBRARIES
    assert {name for name in named if not any(is_within(module, name) for module in modules)} == set()


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b\nfrom c import d\nif TYPE_CHECKING:\n    import e\ndef f():\n    from g.h import i as j\n"
    assert set(imports_of(source)) == {"a.b", "c.d", "e", "g.h.i"}
    assert is_within("a.b", "a")
    assert not is_within("ab", "a")


# Each program with the extras that it may be installed with; the first alone must do to import it.
EXTRAS = {
    "ops": ("serving",),
    "serving": ("serving", "grpcio", "tracing", "payload-log"),
    "worker": ("worker", "worker-tensorflow", "worker-litert", "worker-tfserving", "worker-tokenizers"),
    "jobs": ("jobs",),
    "training": ("training",),
    "millrace_client": ("grpc", "load", "plots"),
}
OWN = {*PROGRAMS, "millrace", "tests", "examples"}


def _importable(program: str, *extras: str) -> set[str]:
    """The top-level names that are there when the program is installed with these extras."""
    project = ROOT / "client" if program == "millrace_client" else ROOT
    allowed = brought_by(requirements(project, *extras))
    own = {program} if program == "millrace_client" else {program, "millrace"}
    return own | {name for name, distributions in installed().items() if distributions & allowed and name not in OWN}


@pytest.mark.parametrize("program", EXTRAS)
def test_whatever_a_program_imports_at_any_time_its_extras_bring(program: str) -> None:
    importable = _importable(program, *EXTRAS[program]) | set(sys.stdlib_module_names) | without_wheel()
    if not find_spec("opentelemetry"):
        importable.add("opentelemetry")
    found = [
        f"{module} imports {name}"
        for module, path in sources(program).items()
        for name in imports_of(path.read_text(encoding="utf-8"))
        if name.partition(".")[0] not in importable
    ]
    assert found == []


# The backends that need more than the worker itself, by the extra that brings it; their other modules begin like them.
BACKENDS = {
    "worker-litert": "worker.backends.tflite",
    "worker-tensorflow": "worker.backends.savedmodel",
    "worker-tfserving": "worker.backends.tfserving",
}

TRACING = "serving.tracing.otlp"  # needs an extra that a place for tests may lack


# The modules that need grpcio, which the API does without.
GRPCIO = {name for name in sources("serving") if name.startswith("serving.transport.grpcio_")}


def _backend(*extras: str) -> set[str]:
    """The modules of these extras' backends."""
    begin = tuple(BACKENDS[extra] for extra in extras)
    return {name for name in sources("worker") if name.startswith(begin)}


@pytest.mark.parametrize(
    ("program", "extras", "modules"),
    [
        ("ops", (), ["ops.supervisor", "millrace.__main__"]),
        ("ops", ("serving",), sources("ops")),
        ("serving", ("serving",), sources("serving").keys() - GRPCIO - {TRACING}),
        ("serving", ("grpcio",), GRPCIO),
        ("worker", ("worker",), sources("worker").keys() - _backend(*BACKENDS)),
        *(("worker", (extra,), _backend(extra)) for extra in BACKENDS),
        ("jobs", ("jobs",), sources("jobs")),
        ("millrace_client", (), ["millrace_client", "millrace_client.cli"]),
        ("millrace_client", ("grpc", "load"), sources("millrace_client")),
        pytest.param("training", ("training",), sources("training"), marks=pytest.mark.slow),
    ],
)
def test_a_program_can_be_imported_beside_its_own_extra_only(
    program: str, extras: tuple[str, ...], modules: Iterable[str]
) -> None:
    if {"training", "worker-tensorflow"} & {*extras} and (why := reason("tensorflow")):
        pytest.skip(why)
    missing = (installed().keys() | OWN) - _importable(program, *extras) - set(sys.stdlib_module_names)
    assert import_without(missing, modules) == ""


def test_what_no_extra_brings_is_missing_in_that_test() -> None:
    assert "flask" not in _importable("worker", "worker")
    assert "onnxruntime" not in _importable("serving", "serving")
    assert "No module named" in import_without({"flask"}, ["serving.web.app"]).replace("no module", "No module")


# Named after the library that the module is the way to.
ADAPTERS = {
    "millrace.broker.redis",
    "serving.protocols.oip.grpc",
    "serving.protocols.tfs.grpc",
    "worker.backends.onnx",
}


def test_no_module_has_the_name_of_pythons_or_of_a_library_of_ours() -> None:
    """A folder that comes first on the path would hide them; and a reader would look for the other one."""
    needed = requirements(ROOT, *extras_of(ROOT)) + requirements(ROOT / "client", *extras_of(ROOT / "client"))
    direct = {canonicalize_name(requirement.name) for requirement in needed} - {"millrace-serving"}
    libraries = {name for name, distributions in installed().items() if distributions & direct} - OWN
    names = {name for package in (*OWN, *PROGRAMS) for name in sources(package)}
    taken = {name for name in names if name.rpartition(".")[2] in libraries | set(sys.stdlib_module_names)}
    assert taken == ADAPTERS
