"""The data sets: where their files come from, the check that they are the right ones, and how they are read.

Every file is checked against its SHA-256, whether it was there already or is downloaded now. What a training run read
is kept in `DataFolder.hashes` and `licences`, which go into the manifest.
"""

import gzip
import hashlib
import http.client
import io
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
import numpy.typing as npt

from training import own_sets

_TIMEOUT_S = 60
_PLAIN_WORD = re.compile(r"[a-z]+")


class DataError(Exception):
    """A data file is missing and cannot be downloaded, or is not the file that it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One file of a data set. `path` is relative to the data folder; without a `url` it must be put there by hand."""

    path: str
    sha256: str
    contents: str
    url: str = ""
    licence: str = "none stated; free for research with citation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """A text and what its author thought: label 1 is positive, 0 negative."""

    text: str
    label: int


class DataFolder:
    """A folder of data files. Missing ones are downloaded into it, and every file is checked when it is asked for.

    With `accept_other` a file that is there already may be any file: its hash is recorded, not compared. `own` is a
    folder or file that the trainers read in place of all that; see `own_sets`.
    """

    def __init__(self, root: Path, *, accept_other: bool = False, own: Path | None = None) -> None:
        self.root = root
        self.accept_other = accept_other
        self.own = own
        self.hashes: dict[str, str] = {}
        self.licences: dict[str, str] = {}

    def own_set(self) -> Path | None:
        """The data of one's own, whose hash is recorded; None where there are none. Raises `DataError`."""
        if self.own is None:
            return None
        if not self.own.exists():
            raise DataError(f"--data: there is no {self.own}")
        if self.own.name not in self.hashes:
            self.hashes[self.own.name] = own_sets.digest(self.own)
            self.licences[self.own.name] = "the trainer's own data"
        return self.own

    def has(self, source: Source) -> bool:
        """Whether the file is there, right or wrong."""
        return (self.root / source.path).is_file()

    def file(self, source: Source) -> Path:
        """The path of the file, which is there and checked. Raises `DataError`."""
        path = self.root / source.path
        if not path.is_file():
            self._download(source, path)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != source.sha256 and not self.accept_other:
            raise DataError(
                f"{path} is not the expected file ({source.contents}): its SHA-256 is {found}, expected"
                f" {source.sha256}. Remove it to have it downloaded, or train on it with --accept-other-data"
            )
        self.hashes[source.path] = found
        self.licences[source.path.partition("/")[0]] = source.licence
        return path

    def _download(self, source: Source, path: Path) -> None:
        wanted = f"{path} is missing. It should hold {source.contents} (SHA-256 {source.sha256})"
        if not source.url:
            raise DataError(f"{wanted}, and there is no address to download it from")
        print(f"downloading {source.url}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=path.parent) as scratch:
            partial = Path(scratch) / path.name
            try:
                _save(source.url, partial)
            except (OSError, http.client.HTTPException) as error:
                raise DataError(f"{wanted}, and {source.url} cannot be downloaded: {error}") from error
            with partial.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != source.sha256:
                raise DataError(f"{wanted}, but {source.url} holds another file, of SHA-256 {found}; nothing was kept")
            partial.rename(path)


def _save(url: str, path: Path) -> None:
    if not url.startswith(("http://", "https://")):
        raise urllib.error.URLError("only http and https addresses are read")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response, path.open("wb") as file:  # noqa: S310 - checked
            shutil.copyfileobj(response, file)
    except urllib.error.HTTPError as error:
        error.close()  # the error is the response too
        raise


# MNIST: 60,000 + 10,000 handwritten digits, 28 x 28 grey levels, 0 background to 255 ink.

_MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MNIST_LICENCE = "none given by its authors (LeCun, Cortes, Burges); usually listed as CC BY-SA 3.0"


def _mnist(name: str, sha256: str, contents: str) -> Source:
    return Source(path=f"mnist/{name}", sha256=sha256, contents=contents, url=_MNIST_URL + name, licence=_MNIST_LICENCE)


MNIST_TRAIN = (
    _mnist(
        "train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "the 60,000 training images of MNIST, gzipped IDX",
    ),
    _mnist(
        "train-labels-idx1-ubyte.gz",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "the 60,000 training labels of MNIST, gzipped IDX",
    ),
)
MNIST_TEST = (
    _mnist(
        "t10k-images-idx3-ubyte.gz",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "the 10,000 test images of MNIST, gzipped IDX",
    ),
    _mnist(
        "t10k-labels-idx1-ubyte.gz",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "the 10,000 test labels of MNIST, gzipped IDX",
    ),
)


def mnist(folder: DataFolder, part: tuple[Source, Source]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
    """Images [n, 28, 28, 1] and labels [n] of `MNIST_TRAIN` or `MNIST_TEST`. Raises `DataError`."""
    if (own := folder.own_set()) is not None:
        try:
            return own_sets.digits(own, is_test=part == MNIST_TEST)
        except own_sets.OwnSetError as error:
            raise DataError(str(error)) from error
    images, labels = (read_idx(folder.file(source)) for source in part)
    if images.shape[1:] != (28, 28) or labels.shape != images.shape[:1]:
        raise DataError(f"{part[0].path} and {part[1].path} do not fit: {images.shape} images, {labels.shape} labels")
    return images[..., None], labels.astype(np.int32)


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of a gzipped IDX file in their shape. Raises `DataError` for anything else."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path} is not an IDX file of unsigned bytes")
    shape = np.frombuffer(raw, ">i4", raw[3], offset=4)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3])
    if values.size != shape.prod():
        raise DataError(f"{path} ends early: {values.size} bytes do not fill {shape.tolist()}")
    return values.reshape(shape)


# Reviews. The TSV files are what the archive holds, less duplicates and some test films; see docs/howto/train.md.

IMDB_ARCHIVE = Source(
    path="imdb/aclImdb_v1.tar.gz",
    sha256="c40f74a18d3b61f90feba1e17730e0d38e8b97c05fe7008942e91923d1658fe0",
    contents="the Large Movie Review Dataset, 50,000 film reviews",
    url="https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz",
)
IMDB_TRAIN = Source(
    path="imdb/train.tsv.gz",
    sha256="13925e0905c08b2d5a10edbee4da73012d48c711044db70a3f7504e320b61662",
    contents="24,748 film reviews, a line each: label, tab, text",
)
IMDB_TEST = Source(
    path="imdb/test.tsv.gz",
    sha256="4921e89317f7fed7ced21b3ebbb6763edd959f409ec944f398f32d5d8e4b6ae6",
    contents="22,604 film reviews, a line each: label, tab, text",
)
SST2_DEV = Source(
    path="sst2/dev.tsv.gz",
    sha256="a9d57e33adeabe118eab95316ca1b68b096826f1d7dd1f200d67a2f3ce4f6c8f",
    contents="872 sentences of the Stanford Sentiment Treebank, a line each: label, tab, text",
)
SENTENCES = (
    Source(
        path="sst2/train.tsv.gz",
        sha256="cc66a313cfe93e22f9350b989ddf78634ca40f2525069310603a7a76d49faaa4",
        contents="66,970 phrases of the Stanford Sentiment Treebank, a line each: label, tab, text",
    ),
    Source(
        path="rt-polarity/train.tsv.gz",
        sha256="e0bc86526e3a01bd9b7a728ba615fe46d9606429b2ecf983c066152fbb5030d5",
        contents="8,202 sentences of film reviews (rt-polarity), a line each: label, tab, text",
        licence="CC BY 4.0 (Pang and Lee)",
    ),
)


def imdb(folder: DataFolder, part: Source) -> list[Review]:
    """The reviews of `IMDB_TRAIN` or `IMDB_TEST`; from the archive, which is downloaded, where the TSV is missing.

    Raises `DataError`.
    """
    if (own := folder.own_set()) is not None:
        try:
            return [Review(text=text, label=label) for text, label in own_sets.texts(own, is_test=part is IMDB_TEST)]
        except own_sets.OwnSetError as error:
            raise DataError(str(error)) from error
    if folder.has(part):
        return read_tsv(folder.file(part))
    return read_archive(folder.file(IMDB_ARCHIVE), "train" if part is IMDB_TRAIN else "test")


def sentences(folder: DataFolder, part: Sequence[Source] = SENTENCES) -> list[Review]:
    """The texts of those of the files that are there, none of which is needed. Raises `DataError`."""
    found: list[Review] = []
    for source in part if folder.own is None else ():
        if folder.has(source):
            found += read_tsv(folder.file(source))
        else:
            print(f"going on without {folder.root / source.path} ({source.contents}), which is not there")
    return found


def read_tsv(path: Path) -> list[Review]:
    """The reviews of a gzipped file, a line each: label 0 or 1, tab, text. Raises `DataError`."""
    reviews = []
    try:
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                label, tab, text = line.rstrip("\n").partition("\t")
                if label not in ("0", "1") or not tab:
                    raise DataError(f"{path}, line {number}: expected 0 or 1, a tab and a text")
                reviews.append(Review(text=text, label=int(label)))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return reviews


def read_archive(path: Path, split: str) -> list[Review]:
    """The reviews of one split ("train" or "test") of the IMDB archive, in an order that mixes the labels."""
    member = re.compile(rf"aclImdb/{split}/(pos|neg)/\d+_\d+\.txt")
    found: dict[str, Review] = {}
    with tarfile.open(path) as archive:
        for entry in archive:
            if (match := member.fullmatch(entry.name)) and (file := archive.extractfile(entry)):
                text = " ".join(file.read().decode("utf-8", "replace").split())
                found[entry.name] = Review(text=text, label=int(match[1] == "pos"))
    if not found:
        raise DataError(f"{path} holds no reviews under aclImdb/{split}")
    return [found[name] for name in sorted(found, key=lambda name: hashlib.sha256(name.encode()).digest())]


# Running text for word vectors.

_ENWIKI_HASHES = (
    "4e8f5e019d5f859e3788523b73c67c97ea9ee69b00e72278f0fbf05d0e475572",
    "0584eb7b8c2a3ba8bda2ae9fd98878edbb0685e4c70b510459914072b3dc327f",
    "add508fcb11e78091a1b729c1a81819c7a0383783d93ffbe9f8e8de8f334d76b",
    "fdbfe1ed54fb625c45e0c029f861d97653ead2fccd42845d84c1b29fbae2efc9",
)
_WIKIPEDIA_LICENCE = "CC BY-SA 3.0 and GFDL, by Wikipedia's authors"
ENWIKI = tuple(
    Source(
        path=f"corpus/enwiki-2015-part{number}.txt.gz",
        sha256=sha256,
        contents=f"part {number} of 4 of a sample of English Wikipedia of 2015, a paragraph a line",
        licence=_WIKIPEDIA_LICENCE,
    )
    for number, sha256 in enumerate(_ENWIKI_HASHES, 1)
)
TEXT8 = Source(
    path="corpus/text8.zip",
    sha256="a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
    contents="text8, the first 100 million letters of English Wikipedia of 2006",
    licence=_WIKIPEDIA_LICENCE,
    url="http://mattmahoney.net/dc/text8.zip",
)


def corpus(folder: DataFolder) -> Iterator[list[str]]:
    """Paragraphs as lower-case words of a-z: of the four enwiki files, else of text8, which is downloaded.

    Raises `DataError`.
    """
    if folder.own is not None:
        raise DataError(
            "--data is for digits and sentiment; put a corpus of your own at corpus/, see docs/howto/train.md"
        )
    if any(folder.has(source) for source in ENWIKI):
        for source in ENWIKI:
            with gzip.open(folder.file(source), "rt", encoding="utf-8") as lines:
                yield from (found for line in lines if (found := _PLAIN_WORD.findall(line.lower())))
        return
    with zipfile.ZipFile(folder.file(TEXT8)) as archive, archive.open("text8") as file:
        yield from _thousand_words_at_a_time(io.TextIOWrapper(file, "ascii"))


def _thousand_words_at_a_time(text: TextIO) -> Iterator[list[str]]:
    rest = ""
    while piece := text.read(1 << 20):
        words = (rest + piece).split(" ")
        rest, words = words[-1], [word for word in words[:-1] if word]
        yield from (words[start : start + 1000] for start in range(0, len(words), 1000))
    if rest:
        yield [rest]
