"""The example with an image model and a text model, served, and asked as people ask: with files, by curl."""

import asyncio
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from millrace_client import Client
from PIL import Image

from tests.support.running import ROOT, Stack, start_up

tokenizers = pytest.importorskip("tokenizers")
RNG = np.random.default_rng(0)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script writes."""
    root = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, str(ROOT / "examples" / "images_and_texts.py"), str(root)], check=True)
    return root


@pytest.fixture(scope="module")
def served(models: Path) -> Iterator[Stack]:
    started = start_up("--models", str(models))
    yield started
    status = started.stop()
    assert status == 0, started.output
    started.log.unlink()


def image(colour: tuple[int, int, int], size: tuple[int, int] = (60, 45)) -> Image.Image:
    """A colour with noise in it."""
    pixels = RNG.normal(colour, 60, (size[1], size[0], 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def of_images(models: Path, *files: bytes) -> Any:
    """What the model's file answers, called directly on what Pillow and NumPy make of the images."""
    session = onnxruntime.InferenceSession(models / "colours" / "1" / "model.onnx")
    rows = []
    for file in files:
        picture = Image.open(io.BytesIO(file)).convert("RGB")
        short, long = min(picture.size), max(picture.size)
        sides = [36 if side == short else int(36 * long / short) for side in picture.size]
        picture = picture.resize((sides[0], sides[1]), Image.Resampling.BILINEAR)
        left, top = round((picture.width - 32) / 2), round((picture.height - 32) / 2)
        pixels = np.asarray(picture.crop((left, top, left + 32, top + 32)), np.float32) / 255
        rows.append(((pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)).transpose(2, 0, 1))
    return session.run(None, {"pixels": np.stack(rows)})[0]


def of_texts(models: Path, *texts: str) -> Any:
    session = onnxruntime.InferenceSession(models / "mood" / "1" / "model.onnx")
    tokenizer = tokenizers.Tokenizer.from_file(str(models / "mood" / "1" / "tokenizer.json"))
    answers = []
    for text in texts:
        found = tokenizer.encode(text)
        fed = {"input_ids": [found.ids], "attention_mask": [found.attention_mask]}
        answers.append(session.run(None, {name: np.array(value) for name, value in fed.items()})[0][0])
    return np.stack(answers)


def curl(*arguments: str) -> Any:
    run = subprocess.run(["curl", "--silent", "--show-error", *arguments], capture_output=True, check=True, timeout=60)
    return json.loads(run.stdout)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "gif"])
def test_curl_sends_an_image_as_it_is(served: Stack, models: Path, tmp_path: Path, kind: str) -> None:
    file = encoded(image((200, 40, 90)), kind)
    (tmp_path / "cat").write_bytes(file)
    sent = ["--data-binary", f"@{tmp_path / 'cat'}", "-H", f"Content-Type: image/{kind}"]
    expected = of_images(models, file)

    predicted = curl(*sent, f"{served.url}/v1/models/colours:predict")["predictions"]
    (output,) = curl(*sent, f"{served.url}/v2/models/colours/infer")["outputs"]
    (classes,) = curl(*sent, f"{served.url}/v1/models/colours:classify")["results"]
    np.testing.assert_allclose(predicted, expected, rtol=1e-6)
    assert (output["shape"], output["datatype"]) == ([1, 3], "FP32")
    np.testing.assert_allclose([output["data"]], expected, rtol=1e-6)
    assert [label for label, _ in classes] == ["red", "green", "blue"]


def test_curl_sends_a_form_of_files_each_a_row(served: Stack, models: Path, tmp_path: Path) -> None:
    files = [encoded(image(colour), "PNG") for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    sent = []
    for number, file in enumerate(files):
        (tmp_path / f"{number}.png").write_bytes(file)
        sent += ["-F", f"image=@{tmp_path / f'{number}.png'}"]
    predicted = curl(*sent, f"{served.url}/v1/models/colours:predict")["predictions"]
    np.testing.assert_allclose(predicted, of_images(models, *files), rtol=1e-6)
    assert np.argmax(predicted, axis=1).tolist() == [0, 1, 2]
    (output,) = curl(*sent, f"{served.url}/v2/models/colours/infer")["outputs"]
    assert output["shape"] == [3, 3]


def test_a_large_image_is_read_beside_the_event_loop_and_answered_alike(served: Stack, models: Path) -> None:
    file = encoded(image((90, 40, 200), (2000, 1500)), "PNG")
    assert len(file) > 5_000_000
    url, headers = f"{served.url}/v1/models/colours:predict", {"Content-Type": "image/png"}
    alone = httpx.post(url, content=file, headers=headers, timeout=60)
    form = httpx.post(url, files=[("image", file), ("image", file)], timeout=60)
    expected = of_images(models, file)
    np.testing.assert_allclose(alone.json()["predictions"], expected, rtol=1e-6)
    np.testing.assert_allclose(form.json()["predictions"], np.concatenate([expected, expected]), rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        ("colours", {"content": b"no image", "headers": {"Content-Type": "image/jpeg"}}, "the bytes are not a JPEG"),
        ("colours", {"content": b"<svg/>", "headers": {"Content-Type": "image/svg+xml"}}, "SVG images are not"),
        ("colours", {"files": [("image", b"GIF89a")], "data": {"k": "1"}}, 'part "k" is no input of model'),
        ("mood", {"content": b"\xff\xd8", "headers": {"Content-Type": "image/jpeg"}}, "the text is not UTF-8"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/models/{}:predict", "/v2/models/{}/infer"])
def test_what_is_no_image_is_the_callers_fault(
    served: Stack, model: str, options: dict[str, Any], reason: str, path: str
) -> None:
    answer = httpx.post(served.url + path.format(model), timeout=60, **options)
    assert (answer.status_code, reason in answer.json()["error"]) == (400, True), answer.text


def test_the_client_sends_files(served: Stack, models: Path, tmp_path: Path) -> None:
    files = [encoded(image(colour), "WEBP") for colour in ((250, 0, 0), (0, 0, 250))]
    paths = [tmp_path / "red.webp", tmp_path / "blue.webp"]
    for path, file in zip(paths, files, strict=True):
        path.write_bytes(file)
    with Client(served.url) as client:
        answer = client.predict("colours", paths)
    np.testing.assert_allclose(answer.outputs["probabilities"], of_images(models, *files), rtol=1e-6)
    command = [sys.executable, "-m", "millrace", "predict", "--url", served.url, "colours", *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["red", "blue"]


def test_texts_are_what_the_text_model_takes(served: Stack, models: Path) -> None:
    metadata = httpx.get(f"{served.url}/v2/models/mood").json()
    assert metadata["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    texts = ["A good film", "a bad bore", "", "[UNK] great fun, not bad at all"]
    answer = httpx.post(f"{served.url}/v1/models/mood:predict", json={"instances": texts}, timeout=60)
    np.testing.assert_allclose(answer.json()["predictions"], of_texts(models, *texts), rtol=1e-6)


def test_of_many_requests_at_once_each_has_its_own_answer(served: Stack, models: Path) -> None:
    files = [encoded(image(colour), "JPEG") for colour in RNG.integers(0, 255, (16, 3))]
    texts = [" ".join(RNG.choice(["good", "bad", "fun", "film"], 1 + number)) for number in range(16)]
    wrong = b"\x89PNG\r\n\x1a\n"

    async def run() -> list[Any]:
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as client:
            headers = {"Content-Type": "image/jpeg"}
            asked = []
            for file, text in zip(files, texts, strict=True):
                asked += [
                    client.post("/v1/models/colours:predict", content=file, headers=headers),
                    client.post("/v1/models/mood:predict", json={"instances": [text]}),
                    client.post("/v1/models/colours:predict", content=wrong, headers=headers),
                ]
            return await asyncio.gather(*asked)

    answers = asyncio.run(run())
    of_files, of_words, refused = answers[::3], answers[1::3], answers[2::3]
    assert {answer.status_code for answer in refused} == {400}
    np.testing.assert_allclose(
        [answer.json()["predictions"][0] for answer in of_files], of_images(models, *files), rtol=1e-5
    )
    np.testing.assert_allclose(
        [answer.json()["predictions"][0] for answer in of_words], of_texts(models, *texts), rtol=1e-5
    )
