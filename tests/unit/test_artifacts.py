"""What training hands over: repository, manifest, vocabulary, image preprocessing."""

import io
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from millrace.artifacts import manifest as manifests
from millrace.artifacts.images import read_digit
from millrace.artifacts.manifest import LookUpWords, Manifest, ManifestError, NameWords, Tokenize
from millrace.artifacts.repository import ModelRepository, RepositoryError, version_folders
from millrace.artifacts.vocabulary import Vocabulary, first_words, last_words, words
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import Signature, TensorSpec

SIGNATURE = Signature(
    inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,)),),
    outputs=(TensorSpec(name="p", datatype="FP32", shape=(-1, 2)),),
)


def a_manifest() -> Manifest:
    return Manifest(
        name="m",
        version=1,
        signatures={"serving_default": SIGNATURE},
        preprocessing=(
            Tokenize(input="text", output="ids", max_length=5),
            LookUpWords(input="t", output="i", weights="w"),
        ),
        postprocessing=(NameWords(output="n"),),
        labels=("no", "yes"),
    )


def test_versions_are_whole_numbers_which_may_have_leading_zeros(tmp_path: Path) -> None:
    for name in ("1", "10", "9", "00000123", "x", ".publishing-1", "0", "v7", "٣", str(2**63)):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    repository = ModelRepository(tmp_path)
    assert repository.models() == {"m": [0, 1, 9, 10, 123]}
    assert repository.folder("m", 123) == tmp_path / "m" / "00000123"


def test_of_folders_that_name_one_version_the_shortest_is_it(tmp_path: Path) -> None:
    for name in ("0001", "01", "1", "002", "0002"):
        (tmp_path / name).mkdir()
    assert {number: path.name for number, path in version_folders(tmp_path).items()} == {1: "1", 2: "002"}


def test_a_root_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError, match="nowhere is not a folder"):
        ModelRepository(tmp_path / "nowhere").models()


def test_a_version_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    with repository.publishing("m", 1) as folder:
        (folder / "model.onnx").write_text("x")
        assert repository.models() == {}
    assert repository.models() == {"m": [1]}
    with pytest.raises(IsADirectoryError), repository.publishing("m", 2) as folder:
        folder.write_text("a version is a folder")
    assert repository.models() == {"m": [1]}
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


def test_a_version_is_replaced_only_on_request(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    with repository.publishing("m", 1) as folder:
        (folder / "old").touch()
    with pytest.raises(RepositoryError, match="choose the next number"), repository.publishing("m", 1):
        pass
    with repository.publishing("m", 1, replace=True) as folder:
        (folder / "new").touch()
    assert [path.name for path in repository.folder("m", 1).iterdir()] == ["new"]


def test_a_manifest_comes_back_as_it_was_written_with_the_hash_of_every_file(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "index").write_bytes(b"")
    manifests.write(tmp_path, a_manifest())
    read = manifests.read(tmp_path)
    assert read is not None
    assert set(read.files) == {"model.onnx", "variables/index"}
    assert (read.preprocessing, read.postprocessing, read.signatures) == (
        a_manifest().preprocessing,
        a_manifest().postprocessing,
        a_manifest().signatures,
    )
    manifests.verify(tmp_path, read)


def test_a_changed_file_is_found_and_a_missing_one_is_not_minded(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    (tmp_path / "model.tflite").write_bytes(b"weights")
    manifests.write(tmp_path, a_manifest())
    written = manifests.read(tmp_path)
    assert written
    (tmp_path / "model.tflite").unlink()
    manifests.verify(tmp_path, written)
    (tmp_path / "model.onnx").write_bytes(b"other weights")
    with pytest.raises(ManifestError, match=r"model\.onnx was changed"):
        manifests.verify(tmp_path, written)


@pytest.mark.parametrize(
    "text",
    ["{", '{"name": 1}', '{"name": "m", "version": 1, "signatures": {}, "surprise": 1}', '{"signatures": {"s": {}}}'],
)
def test_an_unreadable_manifest_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        manifests.read(tmp_path)


def test_labels_may_be_the_lines_of_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"labels_file": "labels.txt"}')
    with pytest.raises(ManifestError, match=r"labels\.txt"):
        manifests.read(tmp_path)
    (tmp_path / "labels.txt").write_text("red\nlight blue\n")
    read = manifests.read(tmp_path)
    assert read
    assert read.labels == ("red", "light blue")
    (tmp_path / "manifest.json").write_text('{"labels_file": "../labels.txt"}')
    with pytest.raises(ManifestError, match="must be a file beside the manifest"):
        manifests.read(tmp_path)


def test_a_folder_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert manifests.read(tmp_path) is None


def test_words_are_lower_case_without_markup_and_contractions_stay_whole() -> None:
    text = "It isn’t <br /><br />GOOD at all; don't see it (1/10)!"
    assert words(text) == ["it", "isn't", "good", "at", "all", "don't", "see", "it", "1", "10", "!"]


@given(st.text("<br/> a'’!?İ\u212aΣé_7\n.b>", max_size=150), st.integers(1, 12))
def test_the_first_and_the_last_words_are_those_of_the_whole_text(text: str, count: int) -> None:
    assert first_words(text, count) == words(text)[:count]
    assert last_words(text, count) == words(text)[-count:]


@pytest.mark.parametrize("keep", ["start", "end"])
def test_the_rest_of_a_long_text_is_not_looked_at(keep: Literal["start", "end"]) -> None:
    """A text 100 times as long costs about the same; the words of the whole text would cost 100 times as much."""
    vocabulary = Vocabulary(["<pad>", "<unk>", "good", "film"])

    def cost_s(text: str) -> float:
        started = time.process_time()
        for _ in range(20):
            assert len(vocabulary.encode(text, 256, keep)) == 256
        return time.process_time() - started

    short, long = "good film <br /> " * 1000, "good film <br /> " * 100_000
    assert min(cost_s(long) for _ in range(3)) < 20 * min(cost_s(short) for _ in range(3))


def test_unknown_words_and_empty_texts_have_an_id(tmp_path: Path) -> None:
    vocabulary = Vocabulary(["<pad>", "<unk>", "good", "film"])
    vocabulary.write(tmp_path / "v.txt")
    read = Vocabulary.read(tmp_path / "v.txt")
    assert read.entries == vocabulary.entries
    assert read.encode("good xyz film", 10) == [2, 1, 3]
    assert read.encode("good xyz film", 2) == [2, 1]
    assert read.encode("good xyz film", 2, "end") == [1, 3]
    assert read.encode("...", 10) == [1]


def _file(pixels: np.ndarray, mode: str = "L", kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8), mode=None).convert(mode).save(out, kind)
    return out.getvalue()


def _stroke(side: int, width: int, at: int) -> np.ndarray:
    image = np.zeros((side, side))
    image[side // 5 : -side // 5, at : at + width] = 255
    return image


@pytest.mark.parametrize("dark_on_light", [True, False])
def test_pixels_in_the_form_of_mnist_are_taken_as_they_are(dark_on_light: bool) -> None:
    image = np.zeros((28, 28))
    image[4:24, 13:16] = 200
    image[4:24, 14] = 254
    image[23, 11:28] = 90  # strokes may end at the border
    np.testing.assert_array_equal(read_digit(_file(255 - image if dark_on_light else image))[..., 0], image)


def test_a_digit_of_28_by_28_pixels_that_is_small_or_off_centre_is_brought_to_the_form() -> None:
    image = np.zeros((28, 28))
    image[2:12, 3:5] = 200
    pixels = read_digit(_file(image))[..., 0]
    rows, columns = np.nonzero(pixels > 100)
    assert (rows.min(), rows.max(), columns.mean()) == (4, 23, pytest.approx(13.5, abs=0.5))


def test_a_thin_line_does_not_fade_where_a_large_drawing_is_reduced() -> None:
    image = np.full((600, 600), 255)
    image[50:550, 300] = 0
    assert read_digit(_file(image)).max() == pytest.approx(255)


def test_ink_may_be_lighter_or_darker_than_a_grey_background() -> None:
    darker, lighter = (np.full((100, 100), 128) for _ in range(2))
    darker[20:80, 40:52], lighter[20:80, 40:52] = 20, 236
    np.testing.assert_allclose(read_digit(_file(darker)), read_digit(_file(lighter)), atol=1e-3)


def test_uneven_light_and_noise_of_the_paper_do_not_change_the_box() -> None:
    random = np.random.default_rng(0)
    paper = np.linspace(190, 240, 200)[None] + random.normal(0, 4, (200, 200))
    paper[40:160, 90:115] = 60
    rows, columns = np.nonzero(read_digit(_file(paper, kind="JPEG"))[..., 0] > 50)
    assert rows.max() - rows.min() + 1 == 20
    assert columns.max() - columns.min() + 1 == pytest.approx(20 * 25 / 120, abs=1.1)


def test_sixteen_bits_a_pixel_mean_the_same_as_eight() -> None:
    image, out = _stroke(60, 7, 8), io.BytesIO()
    Image.fromarray((image * 257).astype(np.uint16)).save(out, "PNG")
    np.testing.assert_array_equal(read_digit(out.getvalue()), read_digit(_file(image)))


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    upright, out, exif = _stroke(60, 7, 8), io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # the camera was held turned by a quarter, clockwise
    Image.fromarray(np.rot90(upright).astype(np.uint8)).save(out, "PNG", exif=exif)
    np.testing.assert_array_equal(read_digit(out.getvalue()), read_digit(_file(upright)))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("dark_on_light", [True, False])
def test_size_place_and_polarity_of_an_image_do_not_matter(kind: str, dark_on_light: bool) -> None:
    small, large = _stroke(60, 7, 8), _stroke(300, 35, 200)
    if dark_on_light:
        small, large = 255 - small, 255 - large
    first, second = read_digit(_file(small, kind=kind)), read_digit(_file(large, "RGB", kind))
    assert first.shape == (28, 28, 1)
    assert np.abs(first - second).mean() < 3
    rows, columns = np.nonzero(first[..., 0] > 50)
    assert rows.max() - rows.min() + 1 == pytest.approx(20, abs=1)
    assert (columns.mean(), rows.mean()) == (pytest.approx(13.5, abs=1), pytest.approx(13.5, abs=1))


@pytest.mark.parametrize("colour", [0, 255])
def test_ink_of_any_colour_is_seen_on_a_transparent_background(colour: int) -> None:
    ink = np.zeros((50, 50, 4))
    ink[10:40, 20:26] = (colour, colour, colour, 255)
    out = io.BytesIO()
    Image.fromarray(ink.astype(np.uint8)).save(out, "PNG")
    rows, _ = np.nonzero(read_digit(out.getvalue())[..., 0] > 200)
    assert (rows.min(), rows.max()) == (4, 23)


def test_an_empty_sheet_is_refused_and_not_read_as_a_digit() -> None:
    for sheet in (np.full((40, 40), 255), np.full((300, 200), 230) + np.random.default_rng(0).normal(0, 2, (300, 200))):
        with pytest.raises(InvalidRequest, match="shows no digit"):
            read_digit(_file(sheet))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"GIF89a....", "cannot be decoded|not a JPEG, PNG, WebP or GIF"),
        (b"%PDF-1.7", "PDF images are not supported"),
        (b"", "not a JPEG, PNG, WebP or GIF"),
        (_file(_stroke(60, 6, 8))[:60], "cannot be decoded"),
    ],
)
def test_a_file_that_is_no_image_is_refused(file: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        read_digit(file)


def test_a_manifest_that_is_no_text_or_nested_without_end_is_refused(tmp_path: Path) -> None:
    for content in (b'{"name": "\xff"}', b'{"name": ' + b"[" * 100_000, b"{", b'{"name": 5}'):
        (tmp_path / manifests.FILE_NAME).write_bytes(content)
        with pytest.raises(ManifestError, match=r"manifest\.json"):
            manifests.read(tmp_path)


def test_of_two_who_publish_one_version_the_first_is_not_overwritten(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    slow, quick = repository.publishing("m", 1), repository.publishing("m", 1)
    (slow.__enter__() / "model.onnx").write_text("slow")
    with quick as folder:
        (folder / "model.onnx").write_text("quick")
    with pytest.raises(RepositoryError, match="m/1 exists"):
        slow.__exit__(None, None, None)
    assert (tmp_path / "m" / "1" / "model.onnx").read_text() == "quick"
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["1"]


@pytest.mark.parametrize("name", ["/dev/zero", "../" * 30 + "dev/zero", "zero", "folder"])
def test_a_manifest_that_names_what_is_no_file_of_its_folder_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ManifestError, match="is no file of its folder"):
        manifests.verify(tmp_path, Manifest(files={name: "0" * 64}))


def test_a_manifest_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").symlink_to("/dev/zero")
    with pytest.raises(ManifestError, match="has more than 16777216 bytes"):
        manifests.read(tmp_path)
