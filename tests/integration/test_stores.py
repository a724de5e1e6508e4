"""Models in stores: mirrored from a real S3 server and a real web server, and served from there."""

import importlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx
import pytest

from millrace.artifacts import manifest as manifests
from millrace.artifacts.manifest import Manifest
from millrace.settings import SettingsError, load
from tests.support.objectstores import HUB_REPOSITORY, azure, google, hub
from tests.support.running import Stack, until
from tests.support.stores import S3, web_server
from worker.mirroring.cache import Cache, CacheError
from worker.mirroring.layout import Key, layout
from worker.mirroring.mirror import Mirror
from worker.mirroring.selection import select
from worker.mirroring.store import Store, StoredFile, StoreError, model_name
from worker.settings import WorkerSettings

MakeModel = Callable[..., Path]
_QUIET_S = 60.0


class Clock:
    """A clock of the test's own, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Mirrored:
    """A mirror of a store into a folder. Looks happen when a test says so."""

    def __init__(self, url: str, folder: Path, *, most_bytes: int = 0, now: float = 0.0) -> None:
        pytest.importorskip("aiohttp", reason="aiohttp is not installed")
        self.cache = Cache(folder)
        self.clock = Clock()
        self.in_use: set[Key] = set()
        self._mirror = Mirror(
            Store(url),
            self.cache,
            most_bytes=most_bytes,
            in_use=lambda: self.in_use,
            quiet_s=_QUIET_S,
            wall=lambda: now,  # where every file is from the future, only looks can tell that it is whole
            monotonic=self.clock,
        )

    def look(self) -> set[Key]:
        """Look once; the versions in the cache then."""
        self._mirror.look()
        return set(self.cache.versions())

    def look_twice(self) -> set[Key]:
        """Look, and again when all that did not change meanwhile is quiet."""
        self.look()
        self.clock.now += _QUIET_S
        return self.look()

    def content(self, path: str) -> bytes:
        return (self.cache.folder / path).read_bytes()


@pytest.fixture(scope="module")
def _s3() -> Iterator[S3]:
    server = S3()
    yield server
    server.stop()


@pytest.fixture
def s3(_s3: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """A running S3 server with an empty bucket."""
    for name, value in _s3.environment.items():
        monkeypatch.setenv(name, value)
    httpx.post(f"http://{_s3.host}:{_s3.port}/moto-api/reset")
    _s3.client().create_bucket(Bucket="models")
    return _s3


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    return folder


@pytest.fixture
def web(files: Path) -> Iterator[str]:
    with web_server(files) as url:
        yield url


@pytest.fixture
def events(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("worker.mirroring")]


def put(folder: Path, content: Mapping[str, str], *, manifest: bool = False) -> None:
    """Write the files of a version, with a manifest that has their hashes or without one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in content.items():
        (folder / name).write_text(text)
    if manifest:
        manifests.write(folder, Manifest())


# From each kind of store


@pytest.mark.slow
def test_versions_in_a_bucket_are_mirrored(s3: S3, files: Path, tmp_path: Path) -> None:
    put(files / "m" / "1", {"model.onnx": "one"}, manifest=True)
    put(files / "m" / "0002", {"model.onnx": "two"}, manifest=True)
    put(files / "m", {"config.pbtxt": "name: 'm'"})
    s3.put(files, "some/models")
    s3.put(files, "some/models-of-others/n")
    s3.client().put_object(Bucket="models", Key="some/models/m/", Body=b"")  # as consoles mark a folder
    mirrored = Mirrored("s3://models/some/models", tmp_path / "cache")
    assert mirrored.look() == {("m", 1), ("m", 2)}
    assert mirrored.content("m/1/model.onnx") == b"one"
    assert mirrored.content("m/config.pbtxt") == b"name: 'm'"


def test_folders_of_a_web_server_are_mirrored(files: Path, web: str, tmp_path: Path) -> None:
    put(files / "a model" / "1", {"model.onnx": "one", "labels é.txt": "a"}, manifest=True)
    mirrored = Mirrored(web, tmp_path / "cache")
    assert mirrored.look() == {("a model", 1)}
    assert mirrored.content("a model/1/labels é.txt") == b"a"


def test_a_file_of_a_web_server_is_a_model(files: Path, web: str, tmp_path: Path) -> None:
    put(files, {"yolo.onnx": "one", "other.onnx": "two"})
    mirrored = Mirrored(f"{web}/yolo.onnx", tmp_path / "cache")
    assert mirrored.look_twice() == {("yolo", 1)}
    assert mirrored.content("yolo/1/yolo.onnx") == b"one"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # what these libraries warn of is theirs to mend
@pytest.mark.parametrize("kind", ["gs", "az", "hf"])
def test_versions_in_other_stores_are_mirrored_and_a_new_one_follows(
    kind: str, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's repository is the folder; to the buckets it is uploaded."""
    servers = {"gs": google(monkeypatch), "az": azure(monkeypatch, tmp_path), "hf": hub(monkeypatch, files)}
    url = f"hf://{HUB_REPOSITORY}/some/models" if kind == "hf" else f"{kind}://files/some/models"

    def upload() -> None:
        for path in files.rglob("*") if kind != "hf" else ():
            if path.is_file():
                store = importlib.import_module("fsspec").filesystem(kind, skip_instance_cache=True)
                store.pipe_file(f"files/{path.relative_to(files).as_posix()}", path.read_bytes())

    with servers[kind]:
        models = files / "some" / "models"
        put(models / "m" / "1", {"model.onnx": "one", "weights.bin": "w" * 3_000_000}, manifest=True)
        put(models / "m", {"config.pbtxt": "name: 'm'"})
        put(files / "some" / "models-of-others" / "n" / "1", {"model.onnx": "other"}, manifest=True)
        upload()
        mirrored = Mirrored(url, tmp_path / "cache")
        assert mirrored.look() == {("m", 1)}
        assert mirrored.content("m/1/weights.bin") == b"w" * 3_000_000
        assert mirrored.content("m/config.pbtxt") == b"name: 'm'"
        put(models / "m" / "2", {"model.onnx": "two"}, manifest=True)
        put(models / "m" / "1", {"model.onnx": "won"}, manifest=True)
        upload()
        assert mirrored.look() == {("m", 1), ("m", 2)}
        assert mirrored.content("m/2/model.onnx") == b"two"
        assert mirrored.content("m/1/model.onnx") == b"won"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_repository_that_a_hub_lacks_is_named(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: Callable[[], list[str]]
) -> None:
    with hub(monkeypatch, files):
        assert Mirrored("hf://organisation/none", tmp_path / "cache").look() == set()
    assert events() == ["the model store cannot be read; what is served stays"]


@pytest.mark.slow
def test_a_file_of_a_bucket_is_a_model(s3: S3, files: Path, tmp_path: Path) -> None:
    put(files, {"model.onnx": "one"})
    s3.put(files, "digits/3")
    mirrored = Mirrored("s3://models/digits/3/model.onnx", tmp_path / "cache")
    assert mirrored.look_twice() == {("digits", 1)}
    assert mirrored.content("digits/1/model.onnx") == b"one"


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/yolo.onnx", "yolo"),
        ("s3://bucket/digits/3/model.onnx", "digits"),
        ("hf://org/resnet", "resnet"),
        ("s3://bucket/digits/3/", "digits"),
        ("s3://bucket", "bucket"),
    ],
)
def test_one_model_is_called_as_its_url_says(url: str, name: str) -> None:
    assert model_name(url) == name


# What is whole


@pytest.mark.slow
def test_a_version_is_not_taken_before_all_files_of_its_manifest_are_there(
    s3: S3, files: Path, tmp_path: Path, events: Callable[[], list[str]]
) -> None:
    put(files / "m" / "1", {"model.onnx": "one", "weights.bin": "w"}, manifest=True)
    (files / "m" / "1" / "weights.bin").rename(tmp_path / "weights.bin")
    s3.put(files, "r")
    mirrored = Mirrored("s3://models/r", tmp_path / "cache")
    assert mirrored.look() == set()
    s3.client().upload_file(str(tmp_path / "weights.bin"), "models", "r/m/1/weights.bin")
    assert mirrored.look() == {("m", 1)}
    assert events() == ["a version was mirrored"]


def test_a_version_without_a_manifest_is_taken_when_it_stands_still(files: Path, web: str, tmp_path: Path) -> None:
    put(files / "m" / "1", {"model.onnx": "one"})
    mirrored = Mirrored(web, tmp_path / "cache")
    assert mirrored.look() == set()
    put(files / "m" / "1", {"weights.bin": "w"})
    mirrored.clock.now += _QUIET_S
    assert mirrored.look() == set()
    mirrored.clock.now += _QUIET_S
    assert mirrored.look() == {("m", 1)}


@pytest.mark.slow
def test_a_version_without_a_manifest_that_is_old_is_taken_at_once(
    s3: S3, files: Path, web: str, tmp_path: Path
) -> None:
    put(files / "m" / "1", {"model.onnx": "one"})
    s3.put(files, "r")
    for number, url in enumerate(("s3://models/r", web)):
        assert Mirrored(url, tmp_path / f"cache{number}", now=2.0**40).look() == {("m", 1)}


def test_a_version_whose_hashes_differ_is_not_taken(
    files: Path, web: str, tmp_path: Path, events: Callable[[], list[str]]
) -> None:
    put(files / "m" / "1", {"model.onnx": "one"}, manifest=True)
    put(files / "m" / "1", {"model.onnx": "eno"})
    mirrored = Mirrored(web, tmp_path / "cache")
    assert mirrored.look_twice() == set()
    assert events() == ["a version was not taken from the store"]
    put(files / "m" / "1", {"model.onnx": "one!"})
    put(files / "m" / "1", {}, manifest=True)
    assert mirrored.look() == {("m", 1)}


@pytest.mark.slow
def test_a_version_that_changes_is_taken_again(s3: S3, files: Path, tmp_path: Path) -> None:
    put(files / "m" / "1", {"model.onnx": "one"}, manifest=True)
    s3.put(files, "r")
    mirrored = Mirrored("s3://models/r", tmp_path / "cache")
    mirrored.look()
    put(files / "m" / "1", {"model.onnx": "two"})
    (files / "m" / "1" / "manifest.json").unlink()
    put(files / "m" / "1", {}, manifest=True)
    s3.put(files, "r")
    assert mirrored.look() == {("m", 1)}
    assert mirrored.content("m/1/model.onnx") == b"two"


def test_a_model_that_comes_back_has_its_configuration(files: Path, web: str, tmp_path: Path) -> None:
    for model in ("m", "n"):
        put(files / model / "1", {"model.onnx": "one"}, manifest=True)
        put(files / model, {"config.pbtxt": "one"})
    mirrored = Mirrored(web, tmp_path / "cache")
    mirrored.look()
    (files / "m").rename(tmp_path / "m")
    assert mirrored.look_twice() == {("n", 1)}
    assert not (tmp_path / "cache" / "m").exists()
    (tmp_path / "m").rename(files / "m")
    assert mirrored.look() == {("m", 1), ("n", 1)}
    assert mirrored.content("m/config.pbtxt") == b"one"


@pytest.mark.slow
def test_an_object_called_like_a_version_keeps_no_version_away(s3: S3, files: Path, tmp_path: Path) -> None:
    put(files / "m" / "1", {"model.onnx": "one"}, manifest=True)
    put(files / "m" / "2", {"model.onnx": "two"}, manifest=True)
    s3.put(files, "r")
    for key in ("r/m/2", "r/m/1/model.onnx/x"):
        s3.client().put_object(Bucket="models", Key=key, Body=b"x")
    assert Mirrored("s3://models/r", tmp_path / "cache").look_twice() == {("m", 2)}


# What is not there


@pytest.mark.slow
def test_a_store_out_of_reach_leaves_all_and_is_named_once(
    s3: S3, files: Path, tmp_path: Path, events: Callable[[], list[str]]
) -> None:
    put(files / "m" / "1", {"model.onnx": "one"}, manifest=True)
    s3.put(files, "r")
    mirrored = Mirrored("s3://models/r", tmp_path / "cache")
    mirrored.look()
    s3.stop()
    try:
        assert mirrored.look_twice() == {("m", 1)}
    finally:
        s3.start()
    assert mirrored.look() == {("m", 1)}
    assert events() == [
        "a version was mirrored",
        "the model store cannot be read; what is served stays",
        "the model store can be read again",
    ]


def test_a_folder_that_cannot_be_read_is_not_one_that_is_gone(files: Path, tmp_path: Path) -> None:
    put(files / "m" / "1", {"model.onnx": "one"}, manifest=True)
    put(files / "n" / "1", {"model.onnx": "one"}, manifest=True)
    refused: set[str] = set()
    with web_server(files, lambda path: path in refused) as url:
        mirrored = Mirrored(url, tmp_path / "cache")
        mirrored.look()
        refused.add("/m/")
        assert mirrored.look_twice() == {("m", 1), ("n", 1)}


def test_a_web_server_whose_folders_have_no_end_is_left(files: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    put(files / "m" / "1", {"model.onnx": "one"})
    for name in ("a", "b"):
        (files / "m" / name).symlink_to(files / "m")
    with web_server(files) as web, pytest.raises(StoreError, match="it has more than 60 files; name the folder"):
        Store(web, most=60).files()


def test_an_empty_store_leaves_all(files: Path, web: str, tmp_path: Path) -> None:
    put(files / "m" / "1", {"model.onnx": "one"}, manifest=True)
    mirrored = Mirrored(web, tmp_path / "cache")
    mirrored.look()
    shutil.rmtree(files / "m")
    assert mirrored.look_twice() == {("m", 1)}


def test_a_version_that_two_looks_miss_is_dropped(files: Path, web: str, tmp_path: Path) -> None:
    for version in ("1", "2"):
        put(files / "m" / version, {"model.onnx": version}, manifest=True)
    mirrored = Mirrored(web, tmp_path / "cache")
    mirrored.look()
    shutil.rmtree(files / "m" / "2")
    assert mirrored.look() == {("m", 1), ("m", 2)}
    assert mirrored.look() == {("m", 1)}


# Names and room


@pytest.mark.parametrize("path", ["m/1/../../evil", "m/1//etc/passwd", "m/1/a\\b", "m/1/a\0b", "m/1/./x"])
def test_a_name_that_leads_elsewhere_refuses_its_version(path: str) -> None:
    file = StoredFile("name", 1, "stamp", None)
    found = layout({"m/1/model.onnx": file, path: file, "n/1/model.onnx": file}, "store")
    assert found.versions["m", 1].refused
    assert not found.versions["n", 1].refused


def test_a_file_of_unknown_length_is_not_fetched(files: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(files / "m" / "1", {"model.onnx": "one"})
    with web_server(files, says_lengths=False) as web:
        assert Mirrored(web, tmp_path / "cache").look_twice() == set()
    reasons = [vars(record)["reason"] for record in caplog.records if record.getMessage().endswith("is refused")]
    assert reasons == ["the store does not say how long 'm/1/model.onnx' is, so there may be no room for it"]


@pytest.mark.slow
def test_a_bucket_with_such_a_name_gives_the_other_versions(
    s3: S3, files: Path, tmp_path: Path, events: Callable[[], list[str]]
) -> None:
    put(files / "m" / "1", {"model.onnx": "one"}, manifest=True)
    s3.put(files, "r")
    for key in ("r/m/2/model.onnx", "r/m/2/../../../evil", "r/../2/evil"):
        s3.client().put_object(Bucket="models", Key=key, Body=b"x")
    assert Mirrored("s3://models/r", tmp_path / "cache").look_twice() == {("m", 1)}
    assert "a version in the store is refused" in events()
    assert not list(tmp_path.rglob("evil"))


def test_the_oldest_version_that_does_not_serve_makes_way(files: Path, web: str, tmp_path: Path) -> None:
    for version in ("1", "2"):
        put(files / "m" / version, {"model.onnx": version * 1000})
    mirrored = Mirrored(web, tmp_path / "cache", most_bytes=2500)
    assert mirrored.look_twice() == {("m", 1), ("m", 2)}
    mirrored.in_use = {("m", 1)}
    put(files / "m" / "3", {"model.onnx": "3" * 1000})
    assert mirrored.look_twice() == {("m", 1), ("m", 3)}


@pytest.mark.parametrize(
    ("most", "kept", "chosen"),
    [
        (0, set(), [("a", 2), ("b", 9), ("a", 1), ("b", 8)]),
        (2, set(), [("a", 2), ("b", 9)]),
        (2, {("b", 8)}, [("a", 2), ("b", 8)]),
        (1, {("a", 1), ("b", 8)}, [("a", 1), ("b", 8)]),
    ],
)
def test_every_models_newest_comes_first(most: int, kept: set[Key], chosen: list[Key]) -> None:
    assert select(dict.fromkeys([("a", 1), ("a", 2), ("b", 8), ("b", 9)], 1), kept, most) == chosen


def test_workers_of_one_machine_share_a_cache(files: Path, web: str, tmp_path: Path) -> None:
    put(files / "m" / "1", {"model.onnx": "one"}, manifest=True)
    first, second = Mirrored(web, tmp_path / "cache"), Mirrored(web, tmp_path / "cache")
    first.look()
    put(files / "m" / "2", {"model.onnx": "two"}, manifest=True)
    assert second.look() == {("m", 1)}
    first.cache.close()  # as the end of its process does
    assert second.look() == {("m", 1), ("m", 2)}


def test_what_a_killed_process_left_is_removed(files: Path, web: str, tmp_path: Path) -> None:
    put(files / "m" / "1", {"model.onnx": "one"}, manifest=True)
    left = tmp_path / "cache" / "m" / ".publishing-x"
    left.mkdir(parents=True)
    assert Mirrored(web, tmp_path / "cache").look() == {("m", 1)}
    assert not left.exists()


# Settings


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket", "ftp://host/models", "ftp://key:secret@host/models?secret", "simplecache::s3://b",
        "s3://", "a://b", "https://host/models?sig=secret", "https://key:se/cret@host/m.onnx",
    ],
)  # fmt: skip
def test_a_url_that_is_no_stores_is_refused_and_its_credentials_are_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="MILLRACE_WORKER_MODELS") as refused:
        load(WorkerSettings, {"MILLRACE_WORKER_MODELS": url})
    assert "secret" not in str(refused.value)


def test_a_cache_that_cannot_be_made_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CacheError, match="MILLRACE_WORKER_MODELS_CACHE"):
        Cache(tmp_path / "file" / "cache")


# The whole stack


@pytest.mark.slow
def test_the_stack_serves_a_bucket(
    s3: S3,
    make_onnx: MakeModel,
    files: Path,
    tmp_path: Path,
    up: Callable[..., Stack],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MILLRACE_WORKER_MODELS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MILLRACE_WORKER_MODELS_POLL_S", "0.2")
    manifests.write(make_onnx(files, "m", 1), Manifest())
    s3.put(files, "r")
    stack = up("--models", "s3://models/r", "--workers", "2")

    def scores() -> list[float]:
        reply = httpx.post(f"{stack.url}/v1/models/m:predict", json={"instances": [[1, 0, 0]]})
        return reply.json()["predictions"][0] if reply.status_code == 200 else []

    assert scores() == [1, 10]
    manifests.write(make_onnx(files, "m", 2), Manifest())
    s3.put(files, "r")
    until(lambda: scores() == [2, 20], 30)
    s3.stop()
    try:
        assert scores() == [2, 20]
    finally:
        s3.start()
