"""Word vectors: skip-gram or CBOW with negative sampling and subsampling, on English Wikipedia.

    python -m training word2vec
    python -m training word2vec --architecture cbow

The first takes about six minutes on two cores. To expect: `paris` and `london` among each other's ten nearest words,
`queen` nearest to king - man + woman, 65 % of the analogies whose words it knows, 0.65 on WordSim-353.

`training/negative_sampling.py` says how they are learned, `python -m benchmarks.word_vectors` how they and the time
compare with gensim's. The exported graph looks words up by id, adds them with their weights, and finds the nearest
words itself, those that were asked for left out.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import tensorflow as tf
from onnx import helper, numpy_helper

from millrace.artifacts.manifest import Batching, LookUpWords, Manifest, NameWords
from millrace.artifacts.vocabulary import Vocabulary
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from training import data, export, negative_sampling, parity, plots
from training.negative_sampling import Architecture, Corpus, Shape, Tables
from training.runs import Epoch, Run

NAME = "word2vec"
NEIGHBORS = 10
LIMITS = (
    "English, lower case, letters a to z; words outside the vocabulary are refused by name.",
    "One vector a word: the meanings of `bank` are mixed by how often each occurs.",
    "Vectors repeat the prejudices of the texts that they were learned from.",
)
_MAPPED = 150  # words on the map; the 200 most frequent are left out where there are enough: they mean little
_EXCLUDED = 4.0  # taken from the similarity of the words asked for; more than any two similarities differ by
_SMALLEST_NORM = 1e-6
_SHARED_NEGATIVES = {Architecture.SKIPGRAM: 64, Architecture.CBOW: 32}  # a skip-gram tells several words, CBOW one

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hyper-parameters; each is a flag of the command."""

    architecture: Architecture = Architecture.SKIPGRAM
    epochs: int = 10
    vocabulary_size: int = 15_000
    size: int = 128  # of a vector
    window: int = 5  # words on either side at most; the reach of each centre word is drawn anew
    subsampling: float = 1e-3  # words more frequent than this are left out at random, the oftener the more frequent
    negatives: int = 5  # weight of the negative samples, for each word told
    block: int = 32  # words whose windows are one product of matrices
    span: int = 4  # blocks that share their negative samples
    shared_negatives: int = 0  # negative samples of a span; 0 means 64 for skip-gram and 32 for CBOW
    spans: int = 64  # spans in a step
    learning_rate: float = 0.35  # of Adagrad; it falls to 2 % of that along a line
    seed: int = 1


def train(settings: Settings, folder: data.DataFolder, target: export.Target, run: Run) -> None:
    """Train, evaluate, export and publish; the steps below in their order."""
    run.cluster.check_alone(NAME)
    run.course.check_plain(NAME)
    vocabulary, corpus = read_corpus(folder, settings.vocabulary_size)
    print(f"{len(corpus.words):,} words, {len(vocabulary):,} of them different")
    vectors = finished(fit(settings, corpus, run))
    scores = evaluate(vectors, vocabulary, folder)
    print(", ".join(f"{name}: {score:.4f}" for name, score in scores.items()))
    first = max(0, min(200, len(vocabulary) - _MAPPED))
    mapped = slice(first, first + _MAPPED)
    pictures = {
        "plots/learning-curves.png": plots.learning_curves(run.history),
        "plots/word-map.png": plots.word_map(vectors[mapped], vocabulary.entries[mapped]),
    }
    publish(vectors, target, manifest(settings, scores, folder, run), vocabulary, pictures)


# Data


def read_corpus(folder: data.DataFolder, size: int) -> tuple[Vocabulary, Corpus]:
    """The `size` commonest words, and the text as their ids, other words left out."""
    counts: Counter[str] = Counter()
    for paragraph in data.corpus(folder):
        counts.update(paragraph)
    common = sorted(counts, key=lambda word: (-counts[word], word))[:size]
    ids = {word: index for index, word in enumerate(common)}
    # Read twice, so that the words are never all in memory.
    known = (
        (ids[word], number) for number, paragraph in enumerate(data.corpus(folder)) for word in paragraph if word in ids
    )
    words = np.fromiter(known, np.dtype((np.int32, 2)))
    return Vocabulary(common), Corpus(
        words=np.ascontiguousarray(words[:, 0]),
        paragraphs=np.ascontiguousarray(words[:, 1]),
        counts=np.array([counts[word] for word in common]),
    )


# Model and fit


class Training:
    """Vectors in training, epoch by epoch; an epoch's randomness comes from the seed and its number alone."""

    def __init__(self, settings: Settings, corpus: Corpus) -> None:
        self._settings, self._corpus = settings, corpus
        self._shape = Shape(
            window=settings.window,
            block=settings.block,
            span=settings.span,
            spans=settings.spans,
            noise=settings.shared_negatives or _SHARED_NEGATIVES[settings.architecture],
        )
        self.tables = Tables.drawn(len(corpus.counts), settings.size, np.random.default_rng(settings.seed))
        self._kept = negative_sampling.chances_to_keep(corpus.counts, settings.subsampling)
        self._noise = negative_sampling.noise_table(corpus.counts)
        self._step = negative_sampling.training_step(
            settings.architecture, self.tables, self._shape, settings.negatives
        )
        words = float(self._kept[corpus.words].sum())
        self._steps = max(1, round(words / self._shape.words))  # of an epoch, but for chance

    def epoch(self, epoch: Epoch) -> float:
        """Train for one epoch; returns its mean loss for a word told."""
        seed = (self._settings.seed, epoch.number)
        batches = negative_sampling.batches(self._corpus, self._kept, self._noise, self._shape, seed)
        losses: list[tf.Tensor] = []
        for batch in epoch.progress(negative_sampling.prefetched(batches), self._steps):
            done = (epoch.number + len(losses) / self._steps) / epoch.of
            losses.append(self._step(*batch, np.float32(self._settings.learning_rate * max(0.02, 1 - done))))
        return float(np.mean(losses))


def fit(settings: Settings, corpus: Corpus, run: Run) -> Floats:
    """The vectors [words, size] after training on the corpus."""
    training = Training(settings, corpus)
    for epoch in run.epochs(settings.epochs, training.tables.variables):
        epoch.metrics["loss"] = training.epoch(epoch)
    result: Floats = training.tables.inputs.numpy()
    return result


def finished(vectors: Floats) -> Floats:
    """Vectors of unit length, rounded to the 16-bit floats of the ONNX file, so that every format holds the same."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rounded: Floats = (vectors / np.maximum(lengths, _SMALLEST_NORM)).astype(np.float16).astype(np.float32)
    return rounded


# Evaluate

ANALOGIES = data.Source(
    path="wordvec-eval/questions-words-part.txt",
    sha256="341a7b9b9df72fded3188e73c030450b6f64b540350cdc9ec220d45d0ea7773a",
    contents="analogies, four words a line: a is to b as c is to d",
)
SIMILARITIES = data.Source(
    path="wordvec-eval/wordsim353.tsv",
    sha256="f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d",
    contents="WordSim-353: two words and how alike people find them, tab-separated",
)


def evaluate(vectors: Floats, vocabulary: Vocabulary, folder: data.DataFolder) -> dict[str, float]:
    """Analogies answered rightly, and rank correlation with people's judgement, where those files are there."""
    scores = {}
    if folder.has(ANALOGIES):
        scores["analogies_accuracy"] = analogies(vectors, vocabulary, folder.file(ANALOGIES))
    if folder.has(SIMILARITIES):
        scores["wordsim353_spearman"] = rank_correlation(vectors, vocabulary, folder.file(SIMILARITIES))
    return scores


def analogies(vectors: Floats, vocabulary: Vocabulary, path: Path) -> float:
    """The part of the questions, of those whose words are all known, whose fourth word is the nearest to b - a + c."""
    lines = [line.lower().split() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith(":")]
    known = [ids for line in lines if None not in (ids := [vocabulary.find(word) for word in line])]
    right = 0
    for start in range(0, len(known), 500):
        first, second, third, fourth = np.array(known[start : start + 500], np.int32).T
        similarities = (vectors[second] - vectors[first] + vectors[third]) @ vectors.T
        for given in (first, second, third):
            np.put_along_axis(similarities, given[:, None], -_EXCLUDED, axis=1)
        right += int((similarities.argmax(axis=1) == fourth).sum())
    return right / max(1, len(known))


def rank_correlation(vectors: Floats, vocabulary: Vocabulary, path: Path) -> float:
    """Spearman's correlation of cosine and judgement, over the pairs whose words are both known."""
    ours, theirs = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        first, second, judgement = line.lower().split("\t")
        ids = vocabulary.find(first), vocabulary.find(second)
        if ids[0] is not None and ids[1] is not None:
            ours.append(float(vectors[ids[0]] @ vectors[ids[1]]))
            theirs.append(float(judgement))
    return float(np.corrcoef(_ranks(ours), _ranks(theirs))[0, 1])


def _ranks(values: list[float]) -> npt.NDArray[np.float64]:
    ordered = np.sort(values)
    return (np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")) / 2


# Export


def manifest(settings: Settings, scores: dict[str, float], folder: data.DataFolder, run: Run) -> Manifest:
    """What the model says of itself."""
    signature = Signature(
        inputs=(
            TensorSpec(name="tokens", datatype="BYTES", shape=(-1, -1), max_bytes=256),
            TensorSpec(name="weights", datatype="FP32", shape=(-1, -1), optional=True),
        ),
        outputs=(
            TensorSpec(name="vector", datatype="FP32", shape=(-1, settings.size)),
            TensorSpec(name="neighbors", datatype="BYTES", shape=(-1, NEIGHBORS)),
            TensorSpec(name="similarities", datatype="FP32", shape=(-1, NEIGHBORS)),
        ),
    )
    return Manifest(
        name=NAME,
        version=1,
        description=f"Word vectors and nearest words; {settings.architecture} trained on a sample of English Wikipedia",
        signatures={DEFAULT_SIGNATURE: signature},
        preprocessing=(LookUpWords(input="tokens", output="ids", weights="weights"),),
        postprocessing=(NameWords(output="neighbors"),),
        batching=Batching(max_batch_size=32),
        example={"instances": [{"tokens": ["king", "man", "woman"], "weights": [1.0, -1.0, 1.0]}]},
        scores=scores,
        limits=LIMITS,
        training=run.hyper_parameters,
        data=folder.hashes,
        licences=folder.licences,
    )


def publish(
    vectors: Floats, target: export.Target, description: Manifest, vocabulary: Vocabulary, pictures: plots.Plots
) -> None:
    """Write the three formats, compare each with the vectors themselves, publish."""
    exports, answer = exports_of(vectors)
    random = np.random.default_rng(0)
    batches = [
        {
            "ids": random.integers(0, len(vectors), (rows, words), np.int32),
            "weights": random.choice(np.array([-1, 1], np.float32), (rows, words)),
        }
        for rows, words in ((1, 1), (3, 3), (32, 2), (200, 1))
    ]
    export.publish(target, description, exports, answer, batches, vocabulary, pictures)


def exports_of(vectors: Floats) -> tuple[export.Exports, parity.Run]:
    """The vectors for every format, and what these have to answer."""
    function, variables = serving_function(vectors)
    exports = export.Exports(function=function, variables=variables, onnx_model=lambda: onnx_model(vectors))
    return exports, lambda batch: nearest(vectors, batch)


def reopened(folder: Path) -> tuple[export.Exports, parity.Run]:
    """A published version, from the vectors in its ONNX file."""
    held = onnx.load(folder / "model.onnx").graph.initializer
    (vectors,) = (numpy_helper.to_array(tensor) for tensor in held if tensor.name == "vectors")
    return exports_of(vectors.astype(np.float32))


def nearest(vectors: Floats, batch: parity.Arrays) -> dict[str, npt.NDArray[Any]]:
    """What the exported graphs have to answer, in NumPy."""
    summed = (vectors[batch["ids"]] * batch["weights"][..., None]).sum(axis=1)
    vector = summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), _SMALLEST_NORM)
    similarities = vector @ vectors.T
    for row, ids in zip(similarities, batch["ids"], strict=True):
        row[ids] -= _EXCLUDED
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :NEIGHBORS].astype(np.int32)
    return {"vector": vector, "neighbors": order, "similarities": np.take_along_axis(similarities, order, axis=1)}


def serving_function(vectors: Floats) -> tuple[Any, list[tf.Variable]]:
    """The graph of SavedModel and TFLite, with its variable."""
    table = tf.Variable(vectors, name="vectors")

    def serve(ids: tf.Tensor, weights: tf.Tensor) -> dict[str, tf.Tensor]:
        summed = tf.reduce_sum(tf.gather(table, ids) * tf.expand_dims(weights, -1), axis=1)
        norm = tf.sqrt(tf.reduce_sum(summed * summed, axis=1, keepdims=True))
        vector = summed / tf.maximum(norm, _SMALLEST_NORM)
        rows, words = tf.shape(ids)[0], tf.shape(ids)[1]
        row_numbers = tf.tile(tf.expand_dims(tf.range(rows), 1), tf.stack([1, words]))
        places = tf.reshape(tf.stack([row_numbers, ids], axis=-1), (-1, 2))
        given = tf.scatter_nd(places, tf.ones((rows * words,)), tf.stack([rows, len(vectors)]))
        penalty = _EXCLUDED * tf.minimum(given, 1.0)  # a word may be given twice
        similarities, neighbors = tf.math.top_k(tf.matmul(vector, table, transpose_b=True) - penalty, NEIGHBORS)
        return {"vector": vector, "neighbors": neighbors, "similarities": similarities}

    signature = [
        tf.TensorSpec((None, None), tf.int32, name="ids"),
        tf.TensorSpec((None, None), tf.float32, name="weights"),
    ]
    return tf.function(serve, input_signature=signature), [table]


def onnx_model(vectors: Floats) -> onnx.ModelProto:
    """The same graph in ONNX; the vectors are stored once, as 16-bit floats."""
    node, types = helper.make_node, onnx.TensorProto
    initializers = [
        numpy_helper.from_array(vectors.astype(np.float16), "vectors"),
        numpy_helper.from_array(np.array(_SMALLEST_NORM, np.float32), "smallest_norm"),
        numpy_helper.from_array(np.array(-_EXCLUDED, np.float32), "excluded"),
        numpy_helper.from_array(np.array([NEIGHBORS], np.int64), "count"),
        numpy_helper.from_array(np.array([1], np.int64), "second_axis"),
        numpy_helper.from_array(np.array([2], np.int64), "last_axis"),
    ]
    nodes = [
        node("Gather", ["vectors", "ids"], ["rows_16"]),
        node("Cast", ["rows_16"], ["rows"], to=types.FLOAT),
        node("Unsqueeze", ["weights", "last_axis"], ["row_weights"]),
        node("Mul", ["rows", "row_weights"], ["weighted"]),
        node("ReduceSum", ["weighted", "second_axis"], ["summed"], keepdims=0),
        node("ReduceL2", ["summed"], ["any_norm"], axes=[1], keepdims=1),
        node("Max", ["any_norm", "smallest_norm"], ["norm"]),
        node("Div", ["summed", "norm"], ["vector"]),
        node("Cast", ["vectors"], ["table"], to=types.FLOAT),
        node("Transpose", ["table"], ["columns"], perm=[1, 0]),
        node("MatMul", ["vector", "columns"], ["all_similarities"]),
        node("Shape", ["ids"], ["shape"]),
        node("Expand", ["excluded", "shape"], ["exclusions"]),
        node("ScatterElements", ["all_similarities", "ids", "exclusions"], ["candidates"], axis=1),
        node("TopK", ["candidates", "count"], ["similarities", "neighbors_64"], axis=1),
        node("Cast", ["neighbors_64"], ["neighbors"], to=types.INT32),
    ]
    inputs = [
        helper.make_tensor_value_info("ids", types.INT32, ["batch", "words"]),
        helper.make_tensor_value_info("weights", types.FLOAT, ["batch", "words"]),
    ]
    outputs = [
        helper.make_tensor_value_info("vector", types.FLOAT, ["batch", vectors.shape[1]]),
        helper.make_tensor_value_info("neighbors", types.INT32, ["batch", NEIGHBORS]),
        helper.make_tensor_value_info("similarities", types.FLOAT, ["batch", NEIGHBORS]),
    ]
    return export.onnx_from_nodes(NAME, nodes, inputs, outputs, initializers)
