"""The page of what clients can do is what the tests beside this one prove."""

from pathlib import Path

import pytest

from tests.contract.claims import claims, page
from tests.support.running import ROOT

_PAGE = ROOT / "docs" / "reference" / "compatibility.md"


def test_the_page_is_what_was_proved(request: pytest.FixtureRequest) -> None:
    here = Path(__file__).parent
    items = [item for item in request.session.items if item.path.parent == here]
    if {item.path for item in items} != set(here.glob("test_*.py")) or request.config.option.keyword:
        pytest.skip("only a part of the contract tests was asked for")
    text = page(claims(items))
    if request.config.getoption("--write-compatibility"):
        assert not request.session.testsfailed, "nothing is written while a claim fails"
        _PAGE.write_text(text, encoding="utf-8")
    assert _PAGE.read_text(encoding="utf-8") == text
