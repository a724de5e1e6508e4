"""The page about manifests names every field, and what it shows can be read."""

import re

import msgspec
import pytest

from millrace.artifacts.manifest import DecodeImage, Manifest, Tokenize
from tests.support.running import ROOT

PAGE = (ROOT / "docs" / "reference" / "manifest.md").read_text(encoding="utf-8")
HOWTO = (ROOT / "docs" / "howto" / "serve-your-own-model.md").read_text(encoding="utf-8")
# Cells of the table of well-known models.
SETTINGS = [found for found in re.findall(r'`("[a-z_]+": [^`]+)`', PAGE) if '"scale"' in found]


@pytest.mark.parametrize("kind", [Manifest, DecodeImage, Tokenize])
def test_every_field_is_on_the_page(kind: type[msgspec.Struct]) -> None:
    named = set(re.findall(r"`(\w+)`", PAGE)) | {"format"}  # which has one value so far
    assert {field.name for field in msgspec.structs.fields(kind)} - named == set()


@pytest.mark.parametrize("text", re.findall(r"```json\n(.*?)```", PAGE + HOWTO, re.DOTALL))
def test_what_is_shown_is_a_manifest(text: str) -> None:
    assert isinstance(msgspec.json.decode(text, type=Manifest), Manifest)


@pytest.mark.parametrize("text", SETTINGS)
def test_what_well_known_models_need_can_be_read(text: str) -> None:
    step = msgspec.json.decode(f'{{"kind": "decode_image", {text}}}', type=DecodeImage)
    assert not step.is_bare


def test_the_table_is_found() -> None:
    assert len(SETTINGS) >= 7
