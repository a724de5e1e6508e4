"""The file of keys, its command, and the arithmetic of limits."""

import json
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from millrace.jobs.documents import JobDocument, ScoreDocument
from millrace.jobs.records import JobRecord
from millrace.protocol.errors import NotAllowed
from serving.access.command import main
from serving.access.gate import Gate, Key
from serving.access.key_file import KeyFileError, StoredKey, changing, hash_of, new_key, read_keys, write_keys
from serving.access.limits import Bucket, Rate, read_rate
from serving.access.shares import part, whole_share
from serving.jobs.access import check_document, check_record
from serving.settings import ServingSettings


def command(file: Path, *arguments: str) -> int:
    return main(["--file", str(file), *arguments])


def test_a_key_is_printed_once_and_only_its_hash_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.json"
    limits = ["--models", "digits, sentiment", "--rate", "50/s", "--concurrency", "8"]
    assert command(file, "add", "phone", "--role", "infer", "--role", "read", *limits) == 0
    shown = capsys.readouterr()
    key = shown.out.strip()
    assert len(key) == 4 + 43  # 256 bits
    assert key not in shown.err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (stored,) = read_keys(file)
    assert stored.sha256 == hash_of(key.encode())
    assert key not in file.read_text()
    assert (stored.roles, stored.models) == (("infer", "read"), ("digits", "sentiment"))
    assert (stored.allowed_rate, stored.concurrency) == (Rate(50, 1), 8)
    assert command(file, "add", "phone", "--role", "read") == 1
    assert command(file, "list") == 0
    listed = capsys.readouterr().out
    assert "phone  infer,read  digits,sentiment  50/s  8" in listed
    assert stored.sha256 not in listed
    assert command(file, "remove", "phone") == 0
    assert command(file, "remove", "phone") == 1
    assert read_keys(file) == ()


def test_two_keys_are_never_the_same() -> None:
    assert len({new_key() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["x", "--role", "infer", "--rate", "fast"], "a rate is a number"),
        (["x", "--role", "infer", "--rate", "0/s"], "a rate is a number"),
        (["a/b", "--role", "infer"], "a name has letters"),
        (["x", "--role", "infer", "--concurrency", "-1"], "concurrency is below 0"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_writes_nothing(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(tmp_path / "keys", "add", *options) == 1
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_changed_in_one_step_by_one_at_a_time(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"

    def add(number: int) -> None:
        with changing(file) as keys:
            keys.append(StoredKey(name=f"k{number}", roles=("read",), sha256=new_key()[1]))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.name for key in read_keys(file)} == {f"k{number}" for number in range(20)}
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "keys").symlink_to(tmp_path / "real" / "keys")
    write_keys(tmp_path / "keys", [])
    assert (tmp_path / "keys").is_symlink()
    assert read_keys(tmp_path / "real" / "keys") == ()


GOOD = {"name": "a", "roles": ["read"], "sha256": "0" * 64}
NAMED = {"name": "a", "roles": ["infer"], "certificate": "a phone "}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "is no file of keys"),
        ("[]", "is no file of keys"),
        ('{"keys": [{"name": "a"}]}', "roles"),
        (json.dumps({"keys": [GOOD | {"roles": ["root"]}]}), "is no file of keys"),
        (json.dumps({"keys": [GOOD | {"role": "read"}]}), "unknown field"),
        (json.dumps({"keys": [GOOD | {"roles": []}]}), "a key has roles"),
        (json.dumps({"keys": [GOOD | {"models": []}]}), "leave it out for all"),
        (json.dumps({"keys": [GOOD | {"sha256": "xyz"}]}), "not 64 hexadecimal digits"),
        (json.dumps({"keys": [GOOD | {"certificate": "x"}]}), "a sha256 or a certificate"),
        (json.dumps({"keys": [GOOD, GOOD]}), "two with the same name"),
        (json.dumps({"keys": [GOOD, GOOD | {"name": "b"}]}), "two with the same hash"),
        (json.dumps({"keys": [NAMED, NAMED | {"name": "b"}]}), "two with the same certificate"),
    ],
)
def test_a_file_that_says_what_cannot_be_meant_is_an_error(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(KeyFileError, match=words):
        Gate(ServingSettings(keys_file=tmp_path / "keys"))


def test_a_file_that_everybody_may_write_is_refused(tmp_path: Path) -> None:
    write_keys(tmp_path / "keys", [])
    (tmp_path / "keys").chmod(0o646)
    with pytest.raises(KeyFileError, match="chmod o-w"):
        read_keys(tmp_path / "keys")


@pytest.mark.parametrize("text", ["", "50", "50/d", "-1/s", "0/s", "1e9/s", "1/s ", "50 /s"])
def test_a_rate_is_a_number_and_a_time(text: str) -> None:
    with pytest.raises(ValueError, match="a rate is"):
        read_rate(text)


def test_a_bucket_tells_truly_when_there_is_a_token() -> None:
    bucket = Bucket(read_rate("10/s"), 0.0)
    assert [bucket.take(0.0) for _ in range(10)] == [0.0] * 10
    missing_s = bucket.take(0.0)
    assert missing_s == pytest.approx(0.1)
    assert bucket.take(missing_s - 0.01) > 0
    assert bucket.take(missing_s + 1e-9) == 0.0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=9), st.integers(1, 1000))
def test_shares_add_up_to_the_limit(demands: list[int], limit: int) -> None:
    named = {f"api{number}": float(demand) for number, demand in enumerate(demands)}
    assert sum(part(named, api) for api in named) == pytest.approx(1)
    assert sum(whole_share(limit, named, api) for api in named) == limit


def test_who_asks_alone_has_all_but_a_little() -> None:
    assert whole_share(10, {"a": 10.0, "b": 0.0, "c": 0.0}, "a") == 10
    assert part({"a": 10.0, "b": 0.0}, "a") == pytest.approx(0.95)
    assert whole_share(1, {"a": 1.0, "b": 0.0, "c": 0.0}, "a") == 1


def test_a_key_of_some_models_is_good_for_jobs_on_these_alone() -> None:
    key = Key(StoredKey(name="phone", roles=("infer",), models=("m",), sha256="0" * 64), 0.0)
    free = Key(StoredKey(name="desk", roles=("infer",), sha256="0" * 64), 0.0)
    own, other = ScoreDocument(kind="score", model="m"), ScoreDocument(kind="score", model="other")
    without = JobDocument(kind="mine")
    check_document(key, own)
    check_record(key, JobRecord(id="1", kind="score", state="queued", document={"model": "m"}))
    for document in (own, other, without):
        check_document(free, document)
        check_document(None, document)
    for document in (other, without):
        with pytest.raises(NotAllowed):
            check_document(key, document)
    for fields in ({"model": "other"}, {}):
        with pytest.raises(NotAllowed):
            check_record(key, JobRecord(id="1", kind="score", state="queued", document=fields))
