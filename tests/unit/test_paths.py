"""Texts for callers name no path of the server."""

import pytest

from millrace.protocol.errors import from_wire
from millrace.protocol.paths import without_paths


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Load model from /srv/models/m/1/model.onnx failed", "Load model from model.onnx failed"),
        (
            "/srv/models/m holds no version: <model>/<number>/ is wanted",
            "m holds no version: <model>/<number>/ is wanted",
        ),
        ("base_path '/etc' is outside of /srv/models", "base_path 'etc' is outside of models"),
        ('File "/usr/lib/my python/a.py", line 3', 'File "a.py", line 3'),
        ("no '/srv/my models/m 2/model.onnx'", "no 'model.onnx'"),
        ("(/srv/a/b)", "(b)"),
        ("open=/srv/a/b, [/srv/c]", "open=b, [c]"),
        ("file:///srv/a/b", "b"),
        ("cannot read /srv/models/", "cannot read models/"),
        (
            "see https://example.org/a/b, docs/reference/settings.md",
            "see https://example.org/a/b, docs/reference/settings.md",
        ),
        ("1/2 of N/A and and/or", "1/2 of N/A and and/or"),
        ("<number>/ and -1/x", "<number>/ and -1/x"),
        ("/", "/"),
    ],
)
def test_only_a_files_name_is_left_of_its_path(text: str, left: str) -> None:
    assert without_paths(text) == left


def test_a_workers_error_is_cut_when_it_comes_in() -> None:
    assert str(from_wire("INTERNAL", "cannot open /srv/models/m/1/model.onnx")) == "cannot open model.onnx"
