"""A Python or a system that will not do is told what is needed before anything is installed."""

import runpy
import shutil
import subprocess

import pytest

from tests.support.running import ROOT

lacks = runpy.run_path(str(ROOT / "requirements" / "suits.py"))["lacks"]
GLIBC = ("glibc", "2.36")


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
@pytest.mark.parametrize(
    ("system", "machine", "libc"),
    [("Linux", "x86_64", GLIBC), ("Linux", "aarch64", ("glibc", "2.28")), ("Darwin", "arm64", ("", ""))],
)
def test_what_the_readme_names_suits(minor: int, system: str, machine: str, libc: tuple[str, str]) -> None:
    assert lacks((3, minor, 1), system, machine, libc) == ""


@pytest.mark.parametrize(
    ("version", "system", "machine", "libc", "said"),
    [
        ((3, 10, 13), "Linux", "x86_64", GLIBC, "this is Python 3.10.13"),
        ((3, 15, 0), "Linux", "x86_64", GLIBC, "this is Python 3.15.0"),
        ((3, 12, 0), "Windows", "AMD64", ("", ""), "this is Windows on AMD64"),
        ((3, 12, 0), "Darwin", "x86_64", ("", ""), "this is Darwin on x86_64"),
        ((3, 12, 0), "Linux", "riscv64", GLIBC, "this is Linux on riscv64"),
        ((3, 12, 0), "Linux", "x86_64", ("", ""), "this system's C library is not glibc"),
        ((3, 12, 0), "Linux", "x86_64", ("glibc", "2.27"), "this system's C library is glibc 2.27"),
    ],
)
def test_what_lacks_is_said(
    version: tuple[int, ...], system: str, machine: str, libc: tuple[str, str], said: str
) -> None:
    assert lacks(version, system, machine, libc).startswith(said)


@pytest.mark.skipif(not shutil.which("make"), reason="there is no make")
def test_make_says_it_first() -> None:
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "--always-make", ".venv/python.stamp"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("python3 requirements/suits.py && python3 -m venv")
