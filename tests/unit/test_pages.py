"""How pages are read as programs: a test of them must fail where an answer differs from what the page says."""

import os
from pathlib import Path

import pytest

from tests.support.pages import Reader, blocks

PAGE = """
```sh
number=7
echo $number         # prints: 7
```

Some words.

<!-- not run: it takes an hour -->
```sh
sleep 3600
```

1. An item.

   ```python
   [number, rest] = [0.3334, "b"]
   [number, rest]  # [0.333, "b"]
   print(rest, number)  # b  0.3…
   number + 1  # one more
   ```
"""


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    return Reader(tmp_path, os.environ, {"localhost:8000": "127.0.0.1:81"})


def only(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```\n"


def test_blocks_are_found_with_the_reason_why_they_are_not_run() -> None:
    first, second, third = blocks(PAGE)
    assert (first.language, first.line, first.reason) == ("sh", 2, "")
    assert (second.code, second.reason) == ("sleep 3600\n", "it takes an hour")
    assert third.code.startswith("[number")


def test_a_page_may_say_that_none_of_its_code_is_run() -> None:
    page = "# Title\n\n<!-- no code of this page is run: it needs a phone -->\n\n" + only("sh", "exit 1")
    assert [block.reason for block in blocks(page)] == ["it needs a phone"]


def test_what_is_right_passes(reader: Reader) -> None:
    first, _, third = blocks(PAGE)
    reader.run(first)
    reader.run(third)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("sh", "echo seven  # prints: eight"),
        ("sh", "false"),
        ("sh", "false | cat"),
        ("console", "$ echo seven\neight"),
        ("console", "$ exit 1"),
        ("python", "1 + 1  # 3"),
        ("python", "[0.5]  # [0.502]"),
        ("python", "[1, 2]  # [1]"),
        ("python", "['a']  # ['b', ...]"),
        ("python", "print(7)  # 8"),
        ("python", "1 / 0"),
    ],
)
def test_what_is_wrong_fails(language: str, code: str, reader: Reader) -> None:
    (block,) = blocks(only(language, code))
    with pytest.raises((AssertionError, ZeroDivisionError)):
        reader.run(block)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("sh", "echo http://localhost:8000  # prints: http://127.0.0.1:81"),
        ("console", "$ echo 1  2\n1 2\n$ echo hello\nhe…\n$ echo 'a\n> b'\na b"),
        ("python", "['a', 'b']  # ['a', ...]"),
        ("python", "import asyncio\nawait asyncio.sleep(0, 5)  # 5"),
    ],
)
def test_what_a_page_may_leave_out_is_left_out(language: str, code: str, reader: Reader) -> None:
    (block,) = blocks(only(language, code))
    reader.run(block)


def test_variables_are_there_in_the_next_block(reader: Reader) -> None:
    for code in ("api=here", "echo $api  # prints: here", "echo $api  # prints: here"):
        (block,) = blocks(only("sh", code))
        reader.run(block)
