"""The real perf_analyzer, over both protocols; beside it, `test_perf_analyzer.py` above acts out what it sends."""

import subprocess

import pytest

from tests.contract.suites import sources
from tests.support.running import Stack

pytestmark = sources.needs(sources.PERF_ANALYZER)
_SHORT = ("--measurement-mode", "count_windows", "--measurement-request-count", "50", "-s", "10000", "-r", "10")
_INPUTS = {
    "digits": (),
    "simple": (),
    "word2vec": ("--string-data", "king", "--shape", "tokens:3", "--shape", "weights:3"),
    "identity_FP16": ("--shape", "INPUT0:4"),
    "identity_BYTES": ("--shape", "INPUT0:4"),
}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
@pytest.mark.parametrize("model", _INPUTS)
def test_it_measures(stack: Stack, model: str, protocol: str) -> None:
    where = stack.grpc if protocol == "grpc" else stack.url.removeprefix("http://")
    measured = _run("-m", model, "-u", where, "-i", protocol, "-b", "2", *_INPUTS[model])
    assert "Throughput:" in measured
    assert "failed" not in measured.lower()


@pytest.mark.parametrize("model", ["half_plus_two", "sentiment"])
def test_it_has_no_words_for_a_row_of_no_dimensions(stack: Stack, model: str) -> None:
    where = stack.url.removeprefix("http://")
    command = [str(sources.place(sources.PERF_ANALYZER)), "-m", model, "-u", where, "--string-data", "a film"]
    ran = subprocess.run([*command, *_SHORT], capture_output=True, text=True, timeout=120, check=False)
    assert "unable to set shape for the input" in ran.stdout + ran.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--input-tensor-format", "json", "--output-tensor-format", "json"),
        ("--async", "--concurrency-range", "8"),
        ("--request-rate-range", "200"),
        ("-x", "1"),
        ("--collect-metrics",),
    ],
    ids=lambda options: options[0],
)
def test_its_options(stack: Stack, options: tuple[str, ...]) -> None:
    where = stack.url.removeprefix("http://")
    metrics = ("--metrics-url", f"{where}/metrics") if "--collect-metrics" in options else ()
    assert "Throughput:" in _run("-m", "simple", "-u", where, *options, *metrics)


@pytest.mark.parametrize("options", [("--streaming", "-i", "grpc", "--async")], ids=["--streaming"])
def test_it_streams(stack: Stack, options: tuple[str, ...]) -> None:
    assert "Throughput:" in _run("-m", "simple", "-u", stack.grpc, *options)


def _run(*arguments: str) -> str:
    program = sources.place(sources.PERF_ANALYZER)
    ran = subprocess.run([str(program), *arguments, *_SHORT], capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout
