"""Files as batches and back: rows from anywhere in a file, rows that are none, and parts joined in order."""

import csv
import io
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs import formats
from jobs.formats import base, csvfile, images, lines
from jobs.inputs import Inputs, check_files
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import Signature, TensorSpec

ROWS = 10_000


def rows_of(path: Path, first: int = 0, count: int | None = None, **options: Any) -> list[dict[str, Any]]:
    reader = formats.reader(path, formats.Options(**options))
    batches = reader.read(first, reader.row_count if count is None else count)
    return [row for batch in batches for row in batch.to_pylist()]


def written(path: Path, batches: Sequence[pa.RecordBatch], format: str) -> Path:  # noqa: A002
    """The batches as one file: each a part of its own."""
    parts = []
    for number, batch in enumerate(batches):
        parts.append(path.with_name(f"part-{number}"))
        writer = formats.writer(parts[-1], format)
        writer.write(batch)
        writer.close()
    formats.join(parts, path, format)
    return path


def table(rows: int) -> pa.RecordBatch:
    numbers = np.arange(rows)
    return pa.record_batch(
        {
            "id": pa.array(numbers),
            "text": pa.array([f'row {n}, "quoted"\nand more' if n % 7 == 0 else f"row {n}" for n in numbers]),
            "x": pa.array(numbers.astype(np.float32) / 10),
        }
    )


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet", "arrow", "npz"])
def test_rows_are_read_from_anywhere_and_written_back(tmp_path: Path, format: str) -> None:  # noqa: A002
    batch = table(ROWS)
    path = written(tmp_path / f"a{formats.SUFFIXES[format]}", [batch.slice(0, 3000), batch.slice(3000)], format)
    expected = batch.to_pylist()
    found = rows_of(path)
    assert [row["text"] for row in found] == [row["text"] for row in expected]
    assert [int(row["id"]) for row in found] == [row["id"] for row in expected]
    assert [np.float32(row["x"]) for row in found] == [row["x"] for row in expected]
    for first, count in ((0, 1), (4095, 2), (2999, 3), (7000, 3000), (9999, 1), (0, 0)):
        kept = {"folder": tmp_path / "kept"}
        assert rows_of(path, first, count, **kept) == found[first : first + count]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet", "arrow", "npz"])
def test_a_part_without_rows_joins_the_others(tmp_path: Path, format: str) -> None:  # noqa: A002
    batch = table(10)
    path = written(tmp_path / f"a{formats.SUFFIXES[format]}", [batch.slice(0, 0), batch, batch.slice(0, 0)], format)
    assert [row["text"] for row in rows_of(path)] == [row["text"] for row in batch.to_pylist()]


def test_a_part_is_read_without_what_is_before_it(tmp_path: Path) -> None:
    path, kept = tmp_path / "a.csv", tmp_path / "kept"
    path.write_text("id\n" + "".join(f"{n}\n" for n in range(100_000)))
    options = formats.Options(folder=kept)
    formats.reader(path, options)
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(3)
        file.write(b"\xff" * 1000)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    reader = formats.reader(path, options)
    assert [row["id"] for batch in reader.read(90_000, 3) for row in batch.to_pylist()] == ["90000", "90001", "90002"]


def test_a_file_that_changes_under_a_job_is_noticed(tmp_path: Path) -> None:
    path, options = tmp_path / "a.csv", formats.Options(folder=tmp_path / "kept")
    path.write_text("id\n1\n")
    formats.reader(path, options)
    path.write_text("id\n1\n2\n")
    with pytest.raises(InvalidRequest, match=r"a\.csv was changed while the job ran"):
        formats.reader(path, options)


FIELDS = st.text(st.sampled_from('ab",\n\r é'), max_size=5)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(FIELDS, FIELDS), max_size=20), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_any_csv_that_python_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], end: str, has_end: bool
) -> None:
    made = io.StringIO()
    # Python leaves a bare carriage return without quotes where it ends no row.
    has_returns = any("\r" in text for row in rows for text in row)
    csv.writer(made, lineterminator=end, quoting=csv.QUOTE_ALL if has_returns else csv.QUOTE_MINIMAL).writerows(
        [("one", "two"), *rows]
    )
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(made.getvalue().encode().removesuffix(b"" if has_end else end.encode()))
    assert [tuple(row.values()) for row in rows_of(path)] == rows


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from('a",\n\r'), max_size=30).map(str.encode), st.booleans())
def test_the_fast_way_finds_the_rows_that_the_slow_one_finds(data: bytes, is_last: bool) -> None:
    fast, slow = lines.csv_ends(data, is_last).tolist(), lines.scanned(data, is_last).tolist()
    if not data.endswith(b"\r"):  # whether that ends a row is known with the next block
        assert fast == slow


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_rows_do_not_depend_on_where_blocks_end(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "BATCH_BYTES", size)
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n1,"x\r\ny"\r\n\r\n2,"q""q"\n3,5" pipe\r4,\n,z')
    expected = [("1", "x\r\ny"), ("2", 'q"q'), ("3", '5" pipe'), ("4", ""), ("", "z")]
    assert [tuple(row.values()) for row in rows_of(path)] == expected


def test_rows_of_csv_that_are_none_are_refused_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'a,b\n1,x\n2\n3,y,z\n4,"\xff"\n5,v\n')
    (batch,) = formats.reader(path, formats.Options()).read(0, 5)
    assert formats.refused(batch) == {
        1: "the row has 1 fields in place of 2",
        2: "the row has 3 fields in place of 2",
        3: "the row is not UTF-8",
    }
    assert batch.column("a").to_pylist() == ["1", "2", "3", "4", "5"]
    assert formats.refused(batch.slice(2, 3)) == {0: "the row has 3 fields in place of 2", 1: "the row is not UTF-8"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no row of column names"),
        (b"a,a\n1,2\n", "two columns 'a'"),
        (b'a\n1\n"open\n2\n', "row 1 begins a text in quotes that does not end"),
        (b"\xff\xfea\x00\n\x00", "not in UTF-8"),
    ],
)
def test_what_is_no_csv_is_refused_in_words(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(InvalidRequest, match=words):
        formats.reader(path, formats.Options())


def test_a_row_that_never_ends_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_ROW_BYTES", 10_000)
    monkeypatch.setattr(lines, "BATCH_BYTES", 1_000)
    path = tmp_path / "a.csv"
    path.write_bytes(b'a\n"' + b"x" * 100_000)
    with pytest.raises(InvalidRequest, match="row 0 is larger than 10000 bytes, or does not end"):
        formats.reader(path, formats.Options())


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], pa.int64()),
        ([1, 2.5, None], pa.float64()),
        ([2**60, 1], pa.int64()),
        ([True, None], pa.bool_()),
        (["2020-01-01", "x"], pa.string()),
        ([[1, 2], [], [2.5]], pa.list_(pa.float64())),
        ([[[1]], []], pa.list_(pa.list_(pa.int64()))),
        ([None], pa.string()),
        ([1, "x"], pa.json_()),
        ([2**60, 0.5], pa.json_()),
        ([2**70], pa.json_()),
        ([{"u": 1}, {"v": "x"}], pa.json_()),
        ([[1], 2], pa.json_()),
        ([[1, "x"]], pa.json_()),
    ],
)
def test_a_column_of_json_lines_has_the_type_of_all_its_values(tmp_path: Path, values: list[Any], kind: Any) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"v": value}) + "\n" for value in values))
    reader = formats.reader(path, formats.Options())
    assert reader.schema == pa.schema([("v", kind)])
    (batch,) = reader.read(0, len(values))
    found = base.parsed_json(batch.column("v"))
    assert (batch.column("v").to_pylist() if found is None else found) == values
    out = written(tmp_path / "out.jsonl", [batch], "jsonl")
    assert [json.loads(line)["v"] for line in out.read_text().splitlines()] == values


def test_lines_that_are_no_objects_are_refused_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n[1]\n{"a":\r\n{"b": "x"}\n')
    (batch,) = formats.reader(path, formats.Options()).read(0, 4)
    errors = formats.refused(batch)
    assert errors.keys() == {1, 2}
    assert errors[1] == "the line is no JSON object"
    assert errors[2].startswith("the line is not JSON")
    assert batch.select(["a", "b"]).to_pylist()[3] == {"a": None, "b": "x"}


def test_mixed_values_feed_a_model_as_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"t": "text"}\n{"t": 5}\n{"t": "more"}\n')
    (batch,) = formats.reader(path, formats.Options()).read(0, 3)
    errors: dict[int, str] = {}
    inputs = (TensorSpec(name="t", datatype="BYTES", shape=(-1,)),)
    blocks = Inputs(Signature(inputs=inputs, outputs=()), {"t": "t"}, 10).blocks(batch, errors)
    assert [block.tensors["t"].to_numpy().tolist() for block in blocks] == [[b"text", b"more"]]
    assert errors == {1: "column 't': is not a text"}


def test_lists_and_missing_values_are_json_in_texts(tmp_path: Path) -> None:
    batch = pa.record_batch(
        {
            "a": pa.array([1.5, None], pa.float32()),
            "l": pa.array([[[0.1, float("nan")], []], None], pa.list_(pa.list_(pa.float32()))),
            "s": pa.array(['q"\n\t', None]),
            "f": pa.array([[1, 2], None], pa.list_(pa.int32(), 2)),
            "u": pa.array([{"k": 1}, None]),
            "b": pa.array([b"\xff", None]),
        }
    ).slice(0)
    assert written(tmp_path / "a.csv", [batch], "csv").read_text() == (
        'a,l,s,f,u,b\n1.5,"[[0.1,null],[]]","q""\n\t","[1,2]","{""k"": 1}",/w==\n,,,,,\n'
    )
    first, second = map(json.loads, written(tmp_path / "a.jsonl", [batch], "jsonl").read_text().splitlines())
    assert first == {"a": 1.5, "l": [[0.1, None], []], "s": 'q"\n\t', "f": [1, 2], "u": {"k": 1}, "b": "/w=="}
    assert second == dict.fromkeys(first)
    assert written(tmp_path / "b.csv", [batch.slice(1)], "csv").read_text().splitlines()[1] == ",,,,,"


def test_a_result_as_npz_has_arrays_that_numpy_reads_without_pickle(tmp_path: Path) -> None:
    batch = pa.record_batch(
        {
            "y": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32())),
            "n": pa.array([1, None, 3], pa.int32()),
            "error": pa.array([None, "bad", None], pa.string()),
        }
    )
    with np.load(written(tmp_path / "a.npz", [batch.slice(0, 1), batch.slice(1)], "npz"), allow_pickle=False) as found:
        assert found["y"].dtype == np.float32
        np.testing.assert_array_equal(found["y"], [[1, 2], [np.nan, np.nan], [3, 4]])
        assert found["n"].tolist() == [1, 0, 3]
        assert found["error"].tolist() == ["", "bad", ""]
    ragged = pa.record_batch({"y": pa.array([[1.0], [2.0, 3.0]])})
    with pytest.raises(InvalidRequest, match="rows of 'y' have different shapes"):
        written(tmp_path / "b.npz", [ragged], "npz")


@pytest.mark.parametrize("is_packed", [False, True])
def test_arrays_are_read_in_place_or_unpacked_once(tmp_path: Path, is_packed: bool) -> None:
    arrays: dict[str, Any] = {
        "x": np.arange(24_000, dtype=">i4").reshape(6000, 2, 2),
        "f": np.asfortranarray(np.arange(12_000, dtype=np.float16).reshape(6000, 2)),
        "t": np.array([f"é{n}" for n in range(6000)]),
    }
    (np.savez_compressed if is_packed else np.savez)(tmp_path / "a.npz", **arrays)
    room: list[int] = []
    options = formats.Options(folder=tmp_path / "kept", check_room=room.append)
    for _ in range(2):
        reader = formats.reader(tmp_path / "a.npz", options)
        found = [row for batch in reader.read(4999, 2) for row in batch.to_pylist()]
        assert found == [{name: array[row].tolist() for name, array in arrays.items()} for row in (4999, 5000)]
    assert len(room) == (3 if is_packed else 0)
    assert reader.carried == ()


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"a": np.zeros(2), "b": np.zeros(3)}, "one number of rows, and have a: 2, b: 3"),
        ({"a": np.array([{}])}, "holds Python objects|allow_pickle"),
        ({"a": np.zeros(2, complex)}, "of the type complex128"),
        ({"a": np.zeros(())}, "a single value"),
        ({"a": np.zeros((2, 0))}, "have no elements"),
    ],
)
def test_arrays_without_rows_of_numbers_are_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InvalidRequest, match=words):
        formats.reader(tmp_path / "a.npz", formats.Options())


def test_arrow_streams_and_dictionaries_are_read_as_files_are(tmp_path: Path) -> None:
    batch = pa.record_batch({"c": pa.array(["a", "b", "a"]).dictionary_encode(), "n": pa.array([1, 2, 3])})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), batch.schema) as stream:
        stream.write_batch(batch)
        stream.write_batch(batch)
    reader = formats.reader(tmp_path / "a.arrow", formats.Options())
    assert (reader.schema.field("c").type, reader.row_count) == (pa.string(), 6)
    assert rows_of(tmp_path / "a.arrow", 2, 2) == [{"c": "a", "n": 3}, {"c": "a", "n": 1}]


def test_rows_of_several_row_groups_are_read_from_anywhere(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.Table.from_batches([table(ROWS)]), tmp_path / "a.parquet", row_group_size=1000)
    assert [row["id"] for row in rows_of(tmp_path / "a.parquet", 1999, 1002)] == list(range(1999, 3001))


def npy(descr: str, shape: tuple[int, ...]) -> bytes:
    """A header that may lie, and 60 bytes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue() + bytes(60)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", b",".join(b"c%d" % n for n in range(10_001)) + b"\n", "10001 columns, and a job reads at most 10000"),
        ("a.csv", b"a,b,a\n1,2,3\n", "two columns 'a'"),
        ("a.csv", b"a,\0refused\n1,x\n", "a column with a NUL in its name"),
        ("a.jsonl", json.dumps({f"c{n}": n for n in range(10_001)}).encode(), "more than 10000 different names"),
        ("a.jsonl", b'{"\\u0000refused": "x"}\n', "a column with a NUL in its name"),
        ("a.npy", npy("|S0", (10**15,)), "elements of no bytes"),
        ("a.npy", npy("<f4", (10**18,)), "cannot be read as npy"),
        ("a.npy", npy("<f4", (-5, 3)), "cannot be read as npy"),
    ],
)
def test_files_that_lie_about_their_size_or_have_no_end_of_columns_are_refused(
    tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidRequest, match=words):
        formats.reader(tmp_path / name, formats.Options())


def test_lists_in_lists_in_lists_are_refused_where_they_do_not_end(tmp_path: Path) -> None:
    deep = [b'{"a": ' + b"[" * depth + b"]" * depth + b"}" for depth in (900, 100_000, 60)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([*deep, b'{"a": 1}\n']))
    (batch,) = formats.reader(tmp_path / "a.jsonl", formats.Options()).read(0, 4)
    assert sorted(formats.refused(batch)) == [0, 1]
    column = pa.array(["[" * 50_000 + "]" * 50_000, "[1.5]"])
    errors: dict[int, str] = {}
    spec = TensorSpec(name="x", datatype="FP32", shape=(-1, 1))
    assert list(
        Inputs(Signature(inputs=(spec,), outputs=()), {"x": "x"}, 8).blocks(pa.record_batch({"x": column}), errors)
    )
    assert list(errors) == [0]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow", ".npy", ".npz"])
def test_damaged_files_are_the_callers_fault(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"PAR1\xff\xfe\x00PK\x03\x04" * 10)
    with pytest.raises(InvalidRequest, match="input: "):
        formats.reader(path, formats.Options())


def test_a_file_that_is_damaged_further_on_is_too(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(pa.Table.from_batches([table(1000)]), path, compression="gzip")
    data = bytearray(path.read_bytes())
    data[100:2000] = bytes(1900)
    path.write_bytes(data)
    with pytest.raises(InvalidRequest, match="input: the file cannot be read as parquet"):
        rows_of(path)


def test_a_header_of_csv_ends_where_its_quotes_end(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"a\nb",c\n1,2\n')
    assert csvfile.header_end(tmp_path / "a.csv") == 8


FILES = {"b.png": b"b", "a/c.png": b"c" * 100_000, "a/é.jpg": b"", "d.txt": b"d"}


def zipped(path: Path, **packing: Any) -> Path:
    with zipfile.ZipFile(path, "w", **packing) as archive:
        for name, data in (*FILES.items(), ("__MACOSX/b.png", b""), (".DS_Store", b"")):
            archive.writestr(name, data)
    return path


def in_folder(path: Path) -> Path:
    for name, data in (*FILES.items(), (".hidden/b.png", b""), ("Thumbs.db", b"")):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_of_images_is_a_row_a_file(tmp_path: Path, packing: int) -> None:
    path = zipped(tmp_path / "a.zip", compression=packing)
    expected = [{"image": data, "name": name} for name, data in FILES.items()]
    assert rows_of(path) == expected
    for first, count in ((1, 2), (3, 1)):
        assert rows_of(path, first, count, folder=tmp_path / "kept") == expected[first : first + count]
    assert tuple(formats.reader(path, formats.Options()).carried) == ("name",)


def test_a_folder_of_images_is_a_row_a_file_in_the_order_of_paths(tmp_path: Path) -> None:
    folder, kept = in_folder(tmp_path / "scans"), tmp_path / "kept"
    expected = [{"image": FILES[name], "name": name} for name in sorted(FILES)]
    assert rows_of(folder, folder=kept) == expected
    (folder / "0.png").write_bytes(b"it came later")
    assert rows_of(folder, 1, 2, folder=kept) == expected[1:3]


def test_links_lead_out_of_no_folder(tmp_path: Path) -> None:
    folder, options = in_folder(tmp_path / "scans"), formats.Options(folder=tmp_path / "kept")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "c.png").write_bytes(b"secret")
    reader = formats.reader(folder, options)
    (folder / "b.png").unlink()
    (folder / "b.png").symlink_to(tmp_path / "secret" / "c.png")
    (folder / "a" / "c.png").unlink()
    (folder / "a" / "é.jpg").unlink()
    (folder / "a").rmdir()
    (folder / "a").symlink_to(tmp_path / "secret")
    (batch,) = reader.read(0, 4)
    assert batch.column("image").to_pylist() == [None, None, None, b"d"]
    assert formats.refused(batch).keys() == {0, 1, 2}
    with pytest.raises(InvalidRequest, match="is a link, and links are not followed"):
        formats.reader(folder, formats.Options())


def test_members_of_a_zip_that_cannot_be_unpacked_are_refused_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", b"good")
        archive.writestr("bomb.png", bytes(1_000_000), zipfile.ZIP_DEFLATED)
        archive.writestr("other.png", b"other", zipfile.ZIP_BZIP2)
        archive.writestr("torn.png", b"untouched")
    path.write_bytes(path.read_bytes().replace(b"untouched", b"unTouched"))
    monkeypatch.setattr(images, "MOST_ROW_BYTES", 100_000)
    (batch,) = formats.reader(path, formats.Options()).read(0, 4)
    assert batch.column("image").to_pylist() == [b"good", None, None, None]
    errors = formats.refused(batch)
    assert errors[1] == "the file is larger than 100000 bytes"
    assert errors[2].startswith("the file is packed in a way that is not read")
    assert errors[3] == "the file is damaged"


def test_files_feed_inputs_that_take_files_and_no_others() -> None:
    takes = Signature(inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 28, 28), media="image"),), outputs=())
    batch = pa.record_batch({"image": pa.array([b"one", None, b"three"]), "name": ["a", "b", "c"]})
    errors: dict[int, str] = {}
    blocks = Inputs(takes, {"x": "image"}, 10).blocks(batch, errors)
    assert [(block.rows, block.tensors["x"].to_numpy().tolist()) for block in blocks] == [([0, 2], [b"one", b"three"])]
    assert errors == {1: "column 'image': is empty"}
    check_files(takes, {"x": "image"}, batch.schema)
    only_numbers = Signature(inputs=(TensorSpec(name="x", datatype="FP32", shape=(-1, 28, 28)),), outputs=())
    with pytest.raises(InvalidRequest, match=r"'image' has files, and 'x' takes FP32 \[-1, 28, 28\] alone"):
        check_files(only_numbers, {"x": "image"}, batch.schema)
