"""What the package offers, and what it does without."""

import ast
import subprocess
import sys
from pathlib import Path

import millrace_client

from millrace import rpc
from tests.support.imports import requirements
from tests.support.running import ROOT

PACKAGE = Path(millrace_client.__file__).parent
_OF_THE_EXTRA = {"grpcwire", "messages", "rpc"}


def test_the_surface_is_sorted_and_complete() -> None:
    assert millrace_client.__all__ == sorted(millrace_client.__all__)
    assert all(hasattr(millrace_client, name) for name in millrace_client.__all__)


def test_every_error_is_part_of_the_surface_and_of_the_tree_in_the_docstring() -> None:
    from millrace_client import errors

    for name in [
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
    ]:
        assert name in millrace_client.__all__
        assert name in (errors.__doc__ or "")


def _imports(module: Path) -> set[str]:
    """The packages of others that a module imports, anywhere in it."""
    imported = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    return imported - sys.stdlib_module_names - {"millrace_client"}


def test_nothing_is_imported_but_numpy_httpx2_and_its_core_and_for_grpc_what_its_extra_brings() -> None:
    modules = {module: _imports(module) for module in PACKAGE.glob("*.py")}
    assert set().union(*modules.values()) == {"google", "grpc", "httpcore2", "httpx2", "numpy"}
    assert {module.stem for module, names in modules.items() if names & {"google", "grpc"}} == _OF_THE_EXTRA


def test_what_the_extra_brings_is_not_imported_before_grpc_is_spoken() -> None:
    names = ", ".join(repr(f"millrace_client.{name}") for name in sorted(_OF_THE_EXTRA))
    code = f"import sys, millrace_client.cli; assert not {{{names}, 'grpc', 'google.protobuf'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_grpc_without_its_extra_says_what_to_install() -> None:
    code = "import sys; sys.modules['grpc'] = None; from millrace_client import cli; sys.exit(cli.models())"
    run = subprocess.run([sys.executable, "-c", code, "--transport", "grpc"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "pip install './client[grpc]'" in run.stderr


def test_the_messages_are_the_servers() -> None:
    copy = PACKAGE / "descriptors.binpb"
    assert copy.read_bytes() == rpc.DESCRIPTORS.read_bytes(), f"run: cp {rpc.DESCRIPTORS} {copy}"


def test_the_distribution_declares_just_these_dependencies() -> None:
    project = ROOT / "client"
    assert {needed.name for needed in requirements(project)} == {"httpcore2", "httpx2", "numpy"}
    extra = {needed.name for needed in requirements(project, "grpc")} - {"httpcore2", "httpx2", "numpy"}
    assert extra == {"grpcio", "protobuf"}
