"""What the package offers, and what it does without."""

import ast
import sys
from importlib.metadata import requires
from pathlib import Path

import millrace_client

PACKAGE = Path(millrace_client.__file__).parent


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


def test_nothing_is_imported_but_numpy_httpx_and_the_standard_library() -> None:
    imported = set()
    for module in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    assert imported - sys.stdlib_module_names == {"httpx", "millrace_client", "numpy"}


def test_the_distribution_declares_just_these_dependencies() -> None:
    required = requires("millrace-client") or []
    assert [requirement.partition(">")[0] for requirement in required] == ["httpx", "numpy"]
