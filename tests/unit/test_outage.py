"""What is logged of a queue that does not answer."""

import logging

import pytest

from millrace.outage import Outage


def test_an_outage_is_told_of_when_it_begins_now_and_then_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    now = 100.0
    outage = Outage(logging.getLogger("queue"), lambda: now)
    outage.answered()
    for second in range(65):
        now = 100.0 + second
        outage.failed(OSError("refused"))
    outage.answered()
    outage.answered()
    said = [(r.message, r.__dict__.get("failures"), r.__dict__.get("after_s")) for r in caplog.records]
    assert said == [
        ("the queue does not answer", 1, None),
        ("the queue does not answer", 31, None),
        ("the queue does not answer", 61, None),
        ("the queue answers again", 65, 64.0),
    ]
