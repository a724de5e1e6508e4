"""What runtimes write to standard error, in our form."""

import logging

import pytest

from worker.processes import standard_error

OURS = b'{"time": "2026-01-01T00:00:00.000+00:00", "level": "info", "program": "model", "event": "loaded"}'
ABSL = b"I0000 00:00:1795661686.302745    1831 port.cc:153] custom operations are on."


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (ABSL, logging.INFO),
        (b"E0000 00:00:1795661686.302745    1831 x.cc:1] it broke", logging.ERROR),
        (b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR", logging.INFO),
        (b"\x1b[0;93m2026-01-01 00:00:00.1 [W:onnxruntime:, graph.cc:1 Clean] not used\x1b[m", logging.WARNING),
        (b"terminate called after throwing an instance of 'std::bad_alloc'", logging.WARNING),
    ],
)
def test_a_line_is_as_serious_as_it_says(line: bytes, level: int) -> None:
    assert standard_error.level_of(line) == level


def test_our_lines_pass_and_others_become_events(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        standard_error.pass_on([OURS + b"\n", ABSL + b"\n", b"\n", b'{"time": "cut in\n', b"\xff\n"])
    assert capsys.readouterr().err.encode() == OURS + b"\n"
    assert [record.getMessage() for record in caplog.records] == [ABSL.decode(), '{"time": "cut in', "\ufffd"]
    assert {vars(record)["program"] for record in caplog.records} == {"model"}
