"""The Kotlin code of docs/howto/mobile.md and examples/phone, compiled and run beside Millrace's own preprocessing."""

import io
import os
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from millrace.artifacts.images import read_digit
from millrace.artifacts.vocabulary import Vocabulary
from millrace.protocol.errors import InvalidRequest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "mobile.md"
TOKENIZE = '"kind": "tokenize", "input": "text", "output": "ids", "max_length": 6, "keep": "%s"'
VOCABULARY = Vocabulary(["<pad>", "<unk>", "a", "film", "good", "bad", "don't", "!", "é"])
TEXTS = (
    "A good film!",
    "Don\u2019t<br />a bad film bad bad good zzz",
    "",
    "good " * 9,
    "GOOD <b>\u00c9 film</b> ? 'a'",
)

Run = Callable[[str, Path, bytes], bytes]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The compiled program: what it does, with which model's file, on which input."""
    compiler = os.environ.get("TEST_KOTLINC") or shutil.which("kotlinc")
    if not compiler or shutil.which("java") is None:
        pytest.skip("there is no Kotlin compiler (TEST_KOTLINC, npm's kotlin-compiler has one) or no Java")
    folder = tmp_path_factory.mktemp("kotlin")
    (code,) = re.findall(r"```kotlin\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "Page.kt").write_text(code, encoding="utf-8")
    sources = [ROOT / "examples" / "phone" / "DigitPixels.kt", *(ROOT / "tests" / "support" / "kotlin").glob("*.kt")]
    program = folder / "program.jar"
    inputs = [str(folder / "Page.kt"), *map(str, sources)]
    built = subprocess.run(
        ["bash", compiler, "-Werror", "-include-runtime", "-d", str(program), *inputs],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert built.returncode == 0, built.stderr

    def run_program(what: str, model: Path, given: bytes) -> bytes:
        (folder / "given").write_bytes(given)
        places = map(str, (model, folder / "given", folder / "out"))
        command = ["java", "-cp", str(program), "CheckKt", what, *places]
        subprocess.run(command, check=True, timeout=120)
        return (folder / "out").read_bytes()

    return run_program


def _model(path: Path, **files: str) -> Path:
    """A file with a model's parts behind it, and no model."""
    metadata = pytest.importorskip("training.export.metadata")
    path.write_bytes(metadata.pack(b"model", {name.replace("_", "."): text for name, text in files.items()}))
    return path


def _sheet(light: Any = 1.0, *, ink: int = 40, paper: int = 235, turned: float = 0, extra: str = "") -> Image.Image:
    """A seven with a foot on paper of 300 x 260, lit so, with other things around it."""
    image = Image.new("L", (260, 300), paper)
    draw = ImageDraw.Draw(image)
    if extra in ("lined", "squared"):
        for place in range(17, 300, 45):
            draw.line([(0, place), (260, place + 6)], fill=120, width=2)
            if extra == "squared":
                draw.line([(place, 0), (place - 7, 300)], fill=120, width=2)
    if extra == "box":
        draw.rectangle((60, 60, 200, 240), outline=60, width=4)
    if extra == "specks":
        for x, y in ((20, 30), (240, 280), (33, 250)):
            draw.rectangle((x, y, x + 4, y + 4), fill=20)
    if extra != "blank":
        draw.line([(90, 90), (165, 92), (120, 210), (150, 212)], fill=ink, width=11, joint="curve")
    image = image.rotate(turned, Image.Resampling.BILINEAR, fillcolor=paper)
    noise = np.random.default_rng(0).normal(0, 2, (300, 260))
    return Image.fromarray(np.clip(np.asarray(image) * light + noise, 0, 255).astype(np.uint8))


def _images() -> dict[str, Image.Image]:
    rows, columns = np.mgrid[0:300, 0:260] / np.array([[[300]], [[260]]])
    shadow = np.where(columns + 0.4 * rows > 0.7, 0.4, 1.0)
    vignette = 1 - 0.7 * np.hypot(rows - 0.5, columns - 0.5)
    found = {
        "plain": _sheet(),
        "light on dark": _sheet(ink=240, paper=20),
        "shadow": _sheet(shadow),
        "vignette": _sheet(vignette, turned=10),
        "light on dark in a shadow": Image.fromarray(255 - np.asarray(_sheet(shadow))),
        "blank": Image.new("L", (100, 90), 230),
        "noise": _sheet(extra="blank"),
        "light that falls off": Image.fromarray((230 - 150 * np.exp(-9 * (rows**2 + columns**2))).astype(np.uint8)),
        "narrow": Image.new("L", (3, 200), 9),
        "thumbnail": _sheet().resize((26, 30), Image.Resampling.BOX),
        "enlarged": _sheet(vignette).resize((910, 1050), Image.Resampling.BICUBIC),
        "lined, large": _sheet(extra="lined").resize((1300, 1500), Image.Resampling.BICUBIC),
    } | {kind: _sheet(vignette, extra=kind) for kind in ("lined", "squared", "box", "specks")}
    form = read_digit(_file(_sheet()))[..., 0].astype(np.uint8)
    return found | {"in form": Image.fromarray(form), "in form, inverted": Image.fromarray(255 - form)}


def _file(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _expected(image: Image.Image) -> Any:
    try:
        return read_digit(_file(image)).ravel()
    except InvalidRequest:
        return np.zeros(0, np.float32)


def _numbers(content: bytes, kind: str) -> list[Any]:
    """Arrays of that kind, each after its length."""
    found, place = [], 0
    while place < len(content):
        (count,) = struct.unpack_from(">i", content, place)
        found.append(np.frombuffer(content, kind, count, place + 4))
        place += 4 + 4 * count
    return found


def test_a_photo_becomes_the_pixels_that_the_server_makes_of_it(run: Run, tmp_path: Path) -> None:
    images = _images()
    given = [struct.pack(">ii", each.height, each.width) + np.asarray(each).tobytes() for each in images.values()]
    labels = "".join(f"{digit}\n" for digit in range(10))

    answered = run("digits", _model(tmp_path / "m", labels_txt=labels), struct.pack(">i", len(given)) + b"".join(given))

    for (name, image), found in zip(images.items(), _numbers(answered, ">f4"), strict=True):
        expected = _expected(image)
        assert found.shape == expected.shape, name
        np.testing.assert_allclose(found, expected, atol=0.01, err_msg=name)
    assert not len(_expected(images["blank"]))


@pytest.mark.parametrize("keep", ["start", "end"])
def test_a_text_becomes_the_ids_that_the_server_makes_of_it(run: Run, tmp_path: Path, keep: str) -> None:
    model = _model(
        tmp_path / "m",
        labels_txt="negative\npositive\n",
        vocabulary_txt=VOCABULARY.text(),
        millrace_json=f'{{"name": "sentiment", "preprocessing": [{{{TOKENIZE % keep}}}], "postprocessing": []}}',
    )

    answered = run("texts", model, "\0".join(TEXTS).encode())

    expected: Sequence[Any] = [VOCABULARY.encode(text, 6, "start" if keep == "start" else "end") for text in TEXTS]
    assert [found.tolist() for found in _numbers(answered, ">i4")] == expected
