import gzip
import hashlib
import io
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from training import data

CONTENT = b"ten letters"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """A web server with one file, `file.bin`."""
    public = tmp_path / "public"
    public.mkdir()
    (public / "file.bin").write_bytes(CONTENT)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(public))) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _source(url: str, sha256: str = SHA256) -> data.Source:
    return data.Source(path="set/file.bin", sha256=sha256, contents="ten letters of the alphabet", url=url)


def test_a_missing_file_is_downloaded_checked_and_its_hash_kept(tmp_path: Path, address: str) -> None:
    folder = data.DataFolder(tmp_path / "data")

    path = folder.file(_source(f"{address}/file.bin"))

    assert path.read_bytes() == CONTENT
    assert folder.hashes == {"set/file.bin": SHA256}


def test_a_file_that_is_there_is_not_downloaded_again(tmp_path: Path, address: str) -> None:
    data.DataFolder(tmp_path / "data").file(_source(f"{address}/file.bin"))

    assert data.DataFolder(tmp_path / "data").file(_source(f"{address}/gone")).read_bytes() == CONTENT


def test_a_download_of_another_file_is_refused_and_not_kept(tmp_path: Path, address: str) -> None:
    with pytest.raises(data.DataError, match=f"holds another file, of SHA-256 {SHA256}"):
        data.DataFolder(tmp_path / "data").file(_source(f"{address}/file.bin", sha256="0" * 64))

    assert list((tmp_path / "data" / "set").iterdir()) == []


def test_a_failed_download_says_which_file_is_wanted_where_and_what_it_holds(tmp_path: Path, address: str) -> None:
    with pytest.raises(data.DataError) as raised:
        data.DataFolder(tmp_path / "data").file(_source(f"{address}/gone"))

    message = str(raised.value)
    assert str(tmp_path / "data" / "set" / "file.bin") in message
    assert "ten letters of the alphabet" in message
    assert SHA256 in message
    assert f"{address}/gone cannot be downloaded" in message
    assert "404" in message
    assert list((tmp_path / "data" / "set").iterdir()) == []


def test_a_missing_file_without_an_address_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match=r"set/file\.bin is missing.*ten letters.*no address"):
        data.DataFolder(tmp_path).file(_source(""))


def test_only_web_addresses_are_read(tmp_path: Path) -> None:
    (tmp_path / "local.bin").write_bytes(CONTENT)

    with pytest.raises(data.DataError, match="only http and https"):
        data.DataFolder(tmp_path).file(_source(f"file://{tmp_path}/local.bin"))


def test_a_local_file_of_another_hash_is_refused_naming_both(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin").write_bytes(b"something else")
    found = hashlib.sha256(b"something else").hexdigest()

    with pytest.raises(data.DataError, match=f"{found}.*{SHA256}.*--accept-other-data"):
        data.DataFolder(tmp_path).file(_source(""))


def test_another_local_file_can_be_accepted_and_its_own_hash_is_kept(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin").write_bytes(b"something else")
    folder = data.DataFolder(tmp_path, accept_other=True)

    folder.file(_source(""))

    assert folder.hashes == {"set/file.bin": hashlib.sha256(b"something else").hexdigest()}


def test_idx_files_are_read_in_their_shape(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    header = b"\0\0\x08\x03" + np.array(values.shape, ">i4").tobytes()
    (tmp_path / "images.gz").write_bytes(gzip.compress(header + values.tobytes()))

    assert np.array_equal(data.read_idx(tmp_path / "images.gz"), values)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"not gzip", "cannot be read", id="not compressed"),
        pytest.param(gzip.compress(b"\0\0\x0d\x01\0\0\0\0"), "not an IDX file", id="floats"),
        pytest.param(gzip.compress(b"\0\0\x08\x01\0\0\0\x05abc"), "ends early", id="truncated"),
        pytest.param(gzip.compress(b"\0\0"), "not an IDX file", id="too short for a header"),
    ],
)
def test_a_broken_idx_file_is_a_data_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "images.gz").write_bytes(content)

    with pytest.raises(data.DataError, match=message):
        data.read_idx(tmp_path / "images.gz")


def test_reviews_are_read_line_by_line_whatever_their_text_holds(tmp_path: Path) -> None:
    (tmp_path / "reviews.tsv.gz").write_bytes(gzip.compress("1\tgood \u2028 fun\n0\t\n".encode()))

    assert data.read_tsv(tmp_path / "reviews.tsv.gz") == [
        data.Review(text="good \u2028 fun", label=1),
        data.Review(text="", label=0),
    ]


def test_a_line_that_is_no_review_is_named(tmp_path: Path) -> None:
    (tmp_path / "reviews.tsv.gz").write_bytes(gzip.compress(b"1\tgood\n5\tbad\n"))

    with pytest.raises(data.DataError, match="line 2"):
        data.read_tsv(tmp_path / "reviews.tsv.gz")


def test_reviews_are_read_from_the_original_archive_where_there_is_no_tsv(tmp_path: Path) -> None:

    (tmp_path / "imdb").mkdir()
    with tarfile.open(tmp_path / data.IMDB_ARCHIVE.path, "w:gz") as archive:
        for name, text in {
            "aclImdb/train/pos/0_9.txt": "so good<br />indeed",
            "aclImdb/train/neg/0_2.txt": "so\tbad",
            "aclImdb/train/unsup/0_0.txt": "so what",
            "aclImdb/test/pos/0_10.txt": "so late",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    folder = data.DataFolder(tmp_path, accept_other=True)

    reviews = data.imdb(folder, data.IMDB_TRAIN)

    assert {(review.text, review.label) for review in reviews} == {("so good<br />indeed", 1), ("so bad", 0)}
    assert list(folder.hashes) == ["imdb/aclImdb_v1.tar.gz"]


def test_sentences_are_optional(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data.sentences(data.DataFolder(tmp_path)) == []
    assert "going on without" in capsys.readouterr().out


def test_the_corpus_is_lower_case_words(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    for source in data.ENWIKI:
        (tmp_path / source.path).write_bytes(gzip.compress(b"The King's 2nd man.\n\n42\n"))

    paragraphs = list(data.corpus(data.DataFolder(tmp_path, accept_other=True)))

    assert paragraphs == [["the", "king", "s", "nd", "man"]] * 4


def test_text8_is_the_corpus_where_wikipedia_is_missing(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    words = [f"w{'abcdefghij'[index % 10]}" for index in range(2500)]
    with zipfile.ZipFile(tmp_path / data.TEXT8.path, "w") as archive:
        archive.writestr("text8", " " + " ".join(words))

    paragraphs = list(data.corpus(data.DataFolder(tmp_path, accept_other=True)))

    assert [word for paragraph in paragraphs for word in paragraph] == words
