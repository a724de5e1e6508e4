"""Where jobs' files may be: below a root and nowhere else, at web servers, and in a store that speaks S3."""

import contextlib
import http.server
import importlib
import io
import json
import os
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from jobs import addresses, places
from jobs.context import Job
from jobs.settings import JobsSettings
from jobs.webfiles import WebFiles
from millrace.jobs.documents import ScoreDocument
from millrace.jobs.records import JobRecord
from millrace.protocol.errors import InvalidRequest, StorageFull
from tests.support.jobs import Jobs, model_worker
from tests.support.objectstores import azure, google
from tests.support.onnxmodels import FLOAT, info, node, save
from tests.support.running import RedisServer

Answers = dict[str, tuple[int, dict[str, str], bytes]]


def job(folder: Path, **settings: Any) -> Job:
    return Job(
        record=JobRecord(id="a", kind="score", state="started", document={}),
        document=ScoreDocument(model="m"),
        settings=JobsSettings(folder=folder / "store", **settings),
        folder=folder / "store" / "jobs" / "a",
        upload=None,
        log=lambda _: None,
    )


@contextmanager
def web_server(answers: Answers) -> Iterator[tuple[str, list[str]]]:
    """A server with these answers by path; its URL, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            status, headers, body = answers[self.path]
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def test_paths_stay_below_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "in").mkdir(parents=True)
    (root / "in" / "a.csv").write_text("a\n")
    (tmp_path / "secret.csv").write_text("a\n")
    (root / "out").symlink_to(tmp_path)
    (root / "circle").symlink_to("circle")
    os.mkfifo(root / "pipe")
    here = job(tmp_path, root=root)
    assert places.input_path(here, "in/a.csv") == (root / "in" / "a.csv").resolve()
    assert places.input_path(here, "in") == (root / "in").resolve()
    for named in ("../secret.csv", str(tmp_path / "secret.csv"), "out/secret.csv", "circle/a", "a\0b", "x" * 5000):
        with pytest.raises(InvalidRequest, match=r"^input: .* is not below the folder that is open|is no path"):
            places.input_path(here, named)
        with pytest.raises(InvalidRequest, match=r"^output: .* is not below the folder that is open|is no path"):
            places.check_output(here, named)
    with pytest.raises(InvalidRequest, match=r"there is no 'b\.csv'"):
        places.input_path(here, "b.csv")
    with pytest.raises(InvalidRequest, match="is no file and no folder"):
        places.input_path(here, "pipe")
    with pytest.raises(InvalidRequest, match="no folder is open to jobs"):
        places.input_path(job(tmp_path), "in/a.csv")


def test_a_result_is_written_as_a_whole_and_never_over_its_input(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.csv").write_text("a\n")
    here = job(tmp_path, root=root)
    places.check_output(here, "new/b.csv", "a.csv")
    with places.output(here, "new/b.csv") as path:
        path.write_text("b")
        assert not (root / "new" / "b.csv").exists()
    assert (root / "new" / "b.csv").read_text() == "b"
    with pytest.raises(IsADirectoryError), places.output(here, "new/c.csv") as path:
        root.write_text("what cannot be done")
    assert [each.name for each in (root / "new").iterdir()] == ["b.csv"]
    with pytest.raises(InvalidRequest, match="this is the input, which would be lost"):
        places.check_output(here, "new/../a.csv", "a.csv")
    with pytest.raises(InvalidRequest, match="'new' is a folder"):
        places.check_output(here, "new")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://example.com/a.csv", "URLs of this protocol are not allowed"),
        ("file:///etc/passwd", "URLs of this protocol are not allowed"),
        ("local:///etc/passwd", "URLs of this protocol are not allowed"),
        ("s3::http://127.0.0.1/a.csv", "URLs of this protocol are not allowed"),
        ("simplecache::s3://bucket/a.csv", "URLs of this protocol are not allowed"),
        ("http://user:word@127.0.0.1/a.csv", "must not carry credentials"),
        ("ftp://user:word@127.0.0.1/a.csv", "must not carry credentials"),
        ("ftp://127.0.0.1/a.csv", "127.0.0.1 is at a private address"),
        ("http://127.0.0.1:99999/a.csv", "this is no URL"),
        ("http://127.0.0.1:1/a.csv", "127.0.0.1 is at a private address"),
        ("http://localhost:1/a.csv", "localhost is at a private address"),
        ("http://[::1]:1/a.csv", "::1 is at a private address"),
        ("http://2130706433:1/a.csv", "2130706433 is at a private address"),
    ],
)
def test_urls_that_are_not_allowed_are_refused_in_words(tmp_path: Path, url: str, words: str) -> None:
    here = job(tmp_path, protocols="http, S3,ftp,file,local,simplecache")
    with pytest.raises(InvalidRequest, match=f"^input: .*{words}"):
        places.input_path(here, url)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.0.1", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
        *("::1", "fe80::1%lo", "fd00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::"),
    ],
)
def test_private_addresses_are_known_in_every_form(address: str) -> None:
    assert not addresses.is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses_are_known(address: str) -> None:
    assert addresses.is_public(address)


def test_a_file_of_a_web_server_is_fetched_once(tmp_path: Path) -> None:
    answers: Answers = {
        "/moved": (HTTPStatus.FOUND, {"Location": "/a%20b.csv?x=1"}, b""),
        "/a%20b.csv?x=1": (HTTPStatus.OK, {}, b"a\n1\n"),
    }
    with web_server(answers) as (url, asked):
        here = job(tmp_path, protocols="http", url_private=True)
        for _ in range(2):
            assert places.input_path(here, f"{url}/a%20b.csv?x=1").read_bytes() == b"a\n1\n"
        assert asked == ["/a%20b.csv?x=1"]
        assert places.input_path(here, f"{url}/a%20b.csv?x=1").name == "a_b.csv"
        assert places.input_path(here, f"{url}/moved").read_bytes() == b"a\n1\n"
        with pytest.raises(InvalidRequest, match="private address"):
            places.input_path(job(tmp_path / "other", protocols="http"), f"{url}/moved")


@pytest.mark.parametrize(
    ("answer", "words", "tries"),
    [
        ((HTTPStatus.NOT_FOUND, {}, b""), "127.0.0.1 answered 404 Not Found", 1),
        ((HTTPStatus.OK, {"Content-Length": "10"}, b"short"), "127.0.0.1 cannot be read: IncompleteRead", 3),
        ((HTTPStatus.BAD_GATEWAY, {}, b""), "127.0.0.1 answered 502 Bad Gateway", 3),
        ((HTTPStatus.FOUND, {"Location": "file:///etc/passwd"}, b""), "'file:///etc/passwd' is not allowed", 1),
        ((HTTPStatus.FOUND, {"Location": "https://127.0.0.1/"}, b""), "redirected to https://, which is not", 1),
        ((HTTPStatus.FOUND, {"Location": "http://[::1"}, b""), "127.0.0.1 redirects to what is no URL", 1),
        ((HTTPStatus.FOUND, {"Location": "http://a..b/"}, b""), "'a..b' is no name of a host", 1),
    ],
)
def test_a_file_that_a_web_server_does_not_give_is_the_callers_to_know(
    tmp_path: Path, answer: tuple[int, dict[str, str], bytes], words: str, tries: int
) -> None:
    with web_server({"/a.csv": answer}) as (url, asked):
        here = job(tmp_path, protocols="http", url_private=True)
        with pytest.raises(InvalidRequest, match=f"^input: .*{words}"):
            places.input_path(here, f"{url}/a.csv")
        assert len(asked) == tries
        assert [*(here.folder / "parts" / "fetched").iterdir()] == []


def test_a_web_server_that_sends_hardly_anything_is_given_up(tmp_path: Path) -> None:
    with web_server({"/a.csv": (HTTPStatus.OK, {}, bytes(100_000))}) as (url, _):
        times = iter(range(0, 10_000, 40))
        slow = WebFiles(["http"], allow_private=True, clock=lambda: float(next(times)))
        with pytest.raises(InvalidRequest, match=r"127\.0\.0\.1 sends fewer than 16384 bytes a second"):
            slow.fetch(f"{url}/a.csv", tmp_path / "a.csv", lambda _: None)


def test_a_length_that_is_no_number_is_passed_over(tmp_path: Path) -> None:
    with web_server({"/a.csv": (HTTPStatus.OK, {"Content-Length": "many"}, b"a\n1\n")}) as (url, _):
        here = job(tmp_path, protocols="http", url_private=True)
        assert places.input_path(here, f"{url}/a.csv").read_bytes() == b"a\n1\n"


@contextmanager
def raw_server(begin: bytes, more: bytes, most: int) -> Iterator[tuple[str, list[int]]]:
    """Sends each caller `begin` and then `more` again and again, `most` times in all.

    Its URL, and how many bytes its callers took.
    """
    taken: list[int] = []
    left = threading.Event()

    def answer(listening: socket.socket) -> None:
        while not left.is_set():
            opened, _ = listening.accept()
            with opened, contextlib.suppress(OSError):
                opened.sendall(begin)
                while len(taken) < most and not left.wait(0.01):
                    taken.append(opened.send(more))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = listening.getsockname()
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        yield f"http://127.0.0.1:{address[1]}/a.csv", taken
        left.set()
        socket.create_connection(address).close()
        thread.join()


@pytest.mark.parametrize("begin", ["HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"])
def test_a_web_server_whose_lines_never_end_is_hung_up_on(tmp_path: Path, begin: str) -> None:
    with raw_server(begin.encode(), b"x", 10_000) as (url, _):
        web = WebFiles(["http"], allow_private=True, patience_s=0.1, wait=lambda _: None)
        with pytest.raises(InvalidRequest, match=r"127\.0\.0\.1 cannot be read: it sends nothing for 0\.1 s"):
            web.fetch(url, tmp_path / "a.csv", lambda _: None)


def test_the_body_of_a_redirect_is_not_read(tmp_path: Path) -> None:
    with raw_server(b"HTTP/1.1 302 Found\r\nLocation: /a.csv\r\n\r\n", bytes(8_000_000), 8) as (url, taken):
        web = WebFiles(["http"], allow_private=True, wait=lambda _: None)
        with pytest.raises(InvalidRequest, match="answered 302"):
            web.fetch(url, tmp_path / "a.csv", lambda _: None)
        assert sum(taken) < 40_000_000


def test_a_name_of_many_addresses_takes_no_longer_than_one() -> None:
    with contextlib.ExitStack() as opened:
        full = opened.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = full.getsockname()[1]
        with contextlib.suppress(TimeoutError):
            while True:  # until nobody is let in any more
                opened.enter_context(socket.create_connection(("127.0.0.1", port), 0.1))
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            addresses.reached(["127.0.0.1"] * 40, port, 0.25)
        assert time.monotonic() - began < 5


def test_what_is_fetched_counts_as_what_jobs_keep(tmp_path: Path) -> None:
    with web_server({"/a.csv": (HTTPStatus.OK, {}, bytes(2_000_000))}) as (url, _):
        here = job(tmp_path, protocols="http", url_private=True, max_bytes=1_500_000)
        with pytest.raises(StorageFull, match="would take more than 1500000 bytes"):
            places.input_path(here, f"{url}/a.csv")
        assert [*(here.folder / "parts" / "fetched").iterdir()] == []


def test_no_result_is_written_to_a_web_server(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="output: files cannot be written to web servers"):
        places.check_output(job(tmp_path, protocols="https"), "https://example.com/a.csv")


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """The environment that leads to a server that speaks S3, with a bucket called `files`."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    moto = pytest.importorskip("moto.server", reason="moto's server is not installed")
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    found = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "word",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.items():
            patch.setenv(name, value)
        files().mkdir("files")
        yield found
    server.stop()


def files() -> Any:
    """The store, as its owner sees it."""
    return importlib.import_module("s3fs").S3FileSystem(skip_instance_cache=True, use_listings_cache=False)


def test_files_and_folders_are_fetched_from_s3_and_results_sent_there(tmp_path: Path, s3: dict[str, str]) -> None:
    store = files()
    store.pipe({"files/a.csv": b"a\n" * 3_000_000, "files/scans/b/c.png": b"c", "files/scans/d.png": b"d"})
    here = job(tmp_path, protocols="s3")
    assert places.input_path(here, "s3://files/a.csv").read_bytes() == b"a\n" * 3_000_000
    scans = places.input_path(here, "s3://files/scans/")
    assert {str(p.relative_to(scans)): p.read_bytes() for p in scans.rglob("*.png")} == {"b/c.png": b"c", "d.png": b"d"}
    with places.output(here, "s3://files/out/b.csv") as path:
        path.write_bytes(b"result")
    assert store.cat("files/out/b.csv") == b"result"
    with pytest.raises(InvalidRequest, match=r"input: there is no 's3://files/none\.csv'"):
        places.input_path(here, "s3://files/none.csv")
    with pytest.raises(InvalidRequest, match="not allowed"):
        places.input_path(job(tmp_path), "s3://files/a.csv")
    with pytest.raises(StorageFull):
        places.input_path(job(tmp_path / "small", protocols="s3", max_bytes=1000), "s3://files/a.csv")


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with google(monkeypatch):
        yield


@pytest.fixture
def az(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with azure(monkeypatch, tmp_path):
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what these libraries warn of is theirs to mend
@pytest.mark.parametrize("protocol", ["gs", "az"])
def test_files_come_from_and_go_to_other_object_stores(
    tmp_path: Path, protocol: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(protocol)
    here = job(tmp_path, protocols=protocol)
    with places.output(here, f"{protocol}://files/in/a.csv") as path:
        path.write_bytes(b"a\n" * 1_000_000)
    with places.output(here, f"{protocol}://files/in/b.csv") as path:
        path.write_bytes(b"b\n")
    assert places.input_path(here, f"{protocol}://files/in/a.csv").read_bytes() == b"a\n" * 1_000_000
    folder = places.input_path(here, f"{protocol}://files/in/")
    assert sorted(each.name for each in folder.iterdir()) == ["a.csv", "b.csv"]
    with pytest.raises(InvalidRequest, match=rf"input: there is no '{protocol}://files/none\.csv'"):
        places.input_path(here, f"{protocol}://files/none.csv")
    with pytest.raises(InvalidRequest, match="not allowed"):
        places.input_path(job(tmp_path), f"{protocol}://files/in/a.csv")


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory, make_onnx: Callable[..., Path]) -> Iterator[RedisServer]:
    """The models' Redis, with a worker that has `tiny`, and `means`, which takes images to the mean of each channel."""
    folder = tmp_path_factory.mktemp("models")
    make_onnx(folder)
    x, y = info("data", FLOAT, ["n", 3, 8, 8]), info("means", FLOAT, ["n", 3])
    save(folder / "means" / "1", [node("ReduceMean", ["data"], ["means"], axes=[2, 3], keepdims=0)], [x], [y])
    steps = {"preprocessing": [{"kind": "decode_image", "scale": "1/255"}]}
    (folder / "means" / "1" / "manifest.json").write_text(json.dumps(steps))
    server = RedisServer(tmp_path_factory.mktemp("queue") / "redis.sock")
    server.start()
    with model_worker(server, folder):
        yield server
    server.kill()


@pytest.fixture
def jobs(redis_server: RedisServer, queue: RedisServer, tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(redis_server, queue, tmp_path)
    yield made
    made.stop()


def rows(count: int) -> pa.Table:
    values = [[float(n), 1.0, 2.0] for n in range(count)]
    return pa.table({"id": range(count), "x": pa.array(values, pa.list_(pa.float32()))})


def test_a_job_from_s3_to_s3(jobs: Jobs, s3: dict[str, str], tmp_path: Path) -> None:
    pa.parquet.write_table(rows(450), tmp_path / "a.parquet", row_group_size=150)
    files().put_file(str(tmp_path / "a.parquet"), "files/in.parquet")
    jobs.start(MILLRACE_JOBS_PROTOCOLS="s3", **s3)
    document = {"kind": "score", "model": "tiny", "input": "s3://files/in.parquet", "output": "s3://files/out.parquet"}
    record = jobs.ended(jobs.submit(document).id)
    assert (record.state, record.error, record.rows, record.errors) == ("finished", "", 450, 0)
    assert record.written_to == "s3://files/out.parquet"
    files().get_file("files/out.parquet", str(tmp_path / "out.parquet"))
    found = pa.parquet.read_table(tmp_path / "out.parquet")
    assert found.column("id").to_pylist() == list(range(450))
    assert found.column("x").to_pylist() == rows(450).column("x").to_pylist()
    assert [row[0] for row in found.column("scores").to_pylist()] == [n + 2 * 1 + 3 * 2 for n in range(450)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "arrow", "npz"])
def test_a_job_below_the_root_in_every_format(jobs: Jobs, tmp_path: Path, suffix: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    pa.parquet.write_table(rows(250), root / "a.parquet")
    jobs.start(MILLRACE_JOBS_ROOT=str(root))
    document = {"kind": "score", "model": "tiny", "input": "a.parquet", "output": f"b.{suffix}"}
    record = jobs.ended(jobs.submit(document).id)
    assert (record.state, record.error, record.rows, record.errors) == ("finished", "", 250, 0)
    again = {"kind": "score", "model": "tiny", "input": f"b.{suffix}", "output": "c.parquet", "carry": ["id"]}
    record = jobs.ended(jobs.submit(again).id)
    assert (record.state, record.error) == ("finished", "")
    found = pa.parquet.read_table(root / "c.parquet")
    assert [int(each) for each in found.column("id").to_pylist()] == list(range(250))
    assert [row[0] for row in found.column("scores").to_pylist()] == [n + 2 * 1 + 3 * 2 for n in range(250)]


def png(colour: tuple[int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_job_scores_images_and_says_which_file_is_none(jobs: Jobs, tmp_path: Path, is_folder: bool) -> None:
    files = {f"{n}.png": png((n, 0, 255)) for n in range(10, 240)} | {"a.txt": b"no image", "b.png": png((0, 255, 0))}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        for name, data in files.items():
            made.writestr(name, data)
    document = {"kind": "score", "model": "means", "output_format": "jsonl"}
    if is_folder:
        root = tmp_path / "root"
        zipfile.ZipFile(archive).extractall(root / "scans")
        jobs.start(MILLRACE_JOBS_ROOT=str(root))
        job = jobs.submit(document | {"input": "scans"})
    else:
        jobs.start()
        job = jobs.submit(document, archive.getvalue(), "scans.zip")
    record = jobs.ended(job.id)
    assert (record.state, record.error, record.rows, record.errors) == ("finished", "", 232, 1)
    rows = [json.loads(line) for line in jobs.result(job.id).splitlines()]
    assert [row["name"] for row in rows] == (sorted(files) if is_folder else list(files))
    by_name = {row["name"]: row for row in rows}
    assert by_name["100.png"]["means"] == pytest.approx([100 / 255, 0, 1])
    assert by_name["b.png"]["means"] == pytest.approx([0, 1, 0])
    assert (by_name["a.txt"]["means"], by_name["a.txt"]["error"] is None) == (None, False)
    assert all(row["error"] is None for row in rows if row["name"] != "a.txt")
