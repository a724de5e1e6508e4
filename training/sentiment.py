"""Film reviews, positive or negative: an LSTM over words, trained on IMDB and on short sentences of reviews.

    python -m training sentiment

takes about seven minutes on one core and reaches 91 % on the IMDB test set and 84 % on the sentences of SST-2's dev
set, with expected calibration errors of 0.004 and 0.020, and 93 % on sentences that deny blame, see `negated`.

Reviews of up to 400 words are read whole, of longer ones the end. In every epoch some reviews are cut to a random part.
Mixed in are the phrases of SST-2 and rt-polarity, where their files are there, so that a single sentence is understood
too, and made sentences that negate praise and blame. After these epochs come some of short texts, many of which deny
praise or blame, see `short_texts`: trained on all at once, the model read single sentences worse, and its
probabilities meant less.

Beside the LSTM, words and pairs of words have scores, from a logistic regression on the reviews: they know what is said
in reviews better, the LSTM what a sentence makes of it. How much each of the two counts is fitted so that a probability
means what it says.

That fit, and the choice of the hyper-parameters, are by 2,000 training reviews and 500 sentences that are held out. The
test sets are read once, at the end.

The exported graphs take word ids, 0 at the end of a row being padding. One LSTM reads the words forwards and one
backwards from the last word, so padding at the end cannot reach the words before it, and the pooling over their states
leaves padding out: a text's answer does not depend on its batch. ONNX and TFLite have LSTM operators of their own;
TFLite's takes one text at a time.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx
import tensorflow as tf
from onnx import helper, numpy_helper
from scipy import sparse
from sklearn.linear_model import LogisticRegression

from millrace.artifacts.manifest import Batching, Manifest, Tokenize
from millrace.artifacts.vocabulary import PAD, UNKNOWN, Vocabulary, words
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from training import data, denials, export, fitting, negated, negation, parity, plots, rates, short_texts
from training.calibration import expected_calibration_error
from training.runs import Run

NAME = "sentiment"
LABELS = ("negative", "positive")
LIMITS = (
    "English only; other languages and unknown words say nothing to it.",
    "It learned from film reviews: of other texts it judges the tone, not the facts.",
    "There is no neutral answer; a text without an opinion gets a probability all the same.",
    "It misreads one in ten of the sentences that deny blame or praise, and one in four of the negative sentences of"
    " reviews that hold a negator; irony it does not understand.",
)
PREPROCESSING = Tokenize(input="text", output="ids", max_length=400, keep="end", needs_known=True)
DIRECTIONS = ("forwards", "backwards")
_PAD_ID, _UNKNOWN_ID = 0, 1
_SPREAD = 31_337  # spreads pairs of words over the places of their scores
_SHORT = 30  # words: in shorter texts, where what negates a word decides, scores say less and the LSTM more

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hyper-parameters; each is a flag of the command."""

    epochs: int = 3
    vocabulary_size: int = 20_000
    embedding_size: int = 64
    units: int = 64  # of each direction
    learning_rate: float = 2e-3  # the peak; it then falls to 0 along a cosine
    embedding_dropout: float = 0.3  # of whole columns of a text's embeddings
    dropout: float = 0.5  # before the last layer
    unknown_rate: float = 0.08  # of words that are hidden in training
    crop_rate: float = 0.5  # of reviews that are cut to a part of at least `crop_words` words
    crop_words: int = 40
    batch_words: int = 16_000  # words in a batch, padding included
    batch_texts: int = 256  # texts in a batch at most
    validation: int = 2_000  # reviews held out of the training set
    validation_sentences: int = 500  # sentences of at least ten words, likewise
    made_sentences: int = 40_000  # negated ones and their like, see `negation`
    short_epochs: int = 4  # that follow the others, on `short_texts`
    short_learning_rate: float = 1e-3  # their peak
    short_batch_texts: int = 64
    short_unknown_rate: float = 0.02  # more would hide what is denied
    short_reviews: int = 10_000  # parts of reviews in each of them
    short_made_sentences: int = 100_000
    short_varied_sentences: int = 30_000  # the reviews' own with other words in them, see `denials`
    pairs: int = 2**18  # places for the scores of pairs of words, see `scores_of_words`
    penalty: float = 0.1  # on large scores
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The trained model's numbers, in Keras' layout: the gates in the order i, f, c, o; forwards, then backwards."""

    embedding: npt.NDArray[np.float16]  # [words, embedding]
    kernel: Floats  # [2, embedding, 4 units]
    recurrent: Floats  # [2, units, 4 units]
    bias: Floats  # [2, 4 units]
    scores: npt.NDArray[np.float16]  # [words + pairs]
    dense: Floats  # [4 units + 1, 2]: for the largest and the mean state forwards, then backwards; for the score
    dense_bias: Floats  # [2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Encoded texts with their labels, 0 or 1."""

    ids: list[Ids]
    labels: npt.NDArray[np.int32]


Parts = Mapping[str, Texts]  # by what they are


def train(settings: Settings, folder: data.DataFolder, target: export.Target, run: Run) -> None:
    """Train, evaluate, export and publish; the steps below in their order."""
    run.cluster.check_alone(NAME)
    if settings.vocabulary_size * _SPREAD >= 2**31:
        raise data.DataError(f"--vocabulary-size can be at most {2**31 // _SPREAD}: pairs of words are 32-bit integers")
    reviews = data.imdb(folder, data.IMDB_TRAIN)
    held_out, reviews = reviews[: settings.validation], reviews[settings.validation :]
    held_out_sentences, sentences = hold_out(joined(data.sentences(folder)), settings.validation_sentences)
    whole = [*reviews, *sentences, *negation.sentences(settings.made_sentences, settings.seed)]
    vocabulary = build_vocabulary(whole, settings.vocabulary_size)
    source = short_texts.Source(reviews=reviews, sentences=sentences, found=denials.find(reviews, sentences))
    print(f"{len(reviews):,} reviews, {len(sentences):,} sentences, {len(vocabulary):,} words")
    print(f"{len(source.found.sentences):,} sentences of the reviews deny praise or blame, or could seem to")
    held = {
        "reviews": held_out,
        "sentences": held_out_sentences,
        "denials": denials.sentences_in(held_out, source.found),
    }
    texts = texts_of(settings, vocabulary, whole, source)
    model = fit(settings, run, len(vocabulary), texts, encoded(held, vocabulary))
    round_embedding(model)
    word_scores = score_words(settings, len(vocabulary), encode(reviews, vocabulary))
    model = with_scores(model, settings, word_scores, encode(list(chain(*held.values())), vocabulary))
    tests = encoded(
        {
            "imdb_test": data.imdb(folder, data.IMDB_TEST),
            "sst2_dev": data.sentences(folder, (data.SST2_DEV,)),
            "negated_sentences": negated.MEASURED,
        },
        vocabulary,
    )
    answers = {name: predict(model, texts) for name, texts in tests.items()}
    scores = scores_of(answers, tests)
    print("\n".join(f"{name.replace('_', ' ')}: {score:.4f}" for name, score in sorted(scores.items())))
    test = tests["imdb_test"]
    pictures = plots.of_classifier(run.history, answers["imdb_test"], test.labels, LABELS)
    publish(model, target, manifest(scores, folder, run), vocabulary, test, pictures)


# Data


def texts_of(
    settings: Settings, vocabulary: Vocabulary, whole: Sequence[data.Review], source: short_texts.Source
) -> Callable[[int], Texts]:
    """The texts of the epoch of a number: the whole ones, and in the last epochs short ones."""
    encoded_once = encode(whole, vocabulary)
    counts = short_texts.Counts(
        reviews=settings.short_reviews, made=settings.short_made_sentences, varied=settings.short_varied_sentences
    )

    @functools.lru_cache(maxsize=1)  # those of the first such epoch are counted, and then trained on
    def short(epoch: int) -> Texts:
        return encode(source.texts(counts, (settings.seed, epoch)), vocabulary)

    return lambda epoch: encoded_once if epoch < settings.epochs else short(epoch)


def joined(sentences: Sequence[data.Review]) -> list[data.Review]:
    """The sentences with their contractions written together (`do n't`, `it 's`), as everybody else writes them."""
    return [
        data.Review(text=sentence.text.replace(" n't", "n't").replace(" '", "'"), label=sentence.label)
        for sentence in sentences
    ]


def hold_out(sentences: Sequence[data.Review], count: int) -> tuple[list[data.Review], list[data.Review]]:
    """The first `count` that have ten words or more, and of the others those that share no five words with them.

    SST-2 holds the phrases of its sentences too, which would give away what a held-out sentence is.
    """
    held_out = [sentence for sentence in sentences if len(words(sentence.text)) >= 10][:count]
    taken = {run for sentence in held_out for run in _runs(sentence)}
    return held_out, [sentence for sentence in sentences if taken.isdisjoint(_runs(sentence))]


def _runs(sentence: data.Review) -> set[tuple[str, ...]]:
    """The runs of five words in a sentence."""
    found = words(sentence.text)
    return {tuple(found[start : start + 5]) for start in range(len(found) - 4)}


def build_vocabulary(reviews: Sequence[data.Review], size: int) -> Vocabulary:
    """The `size` commonest words, the two special ones included; words of equal count in alphabetical order."""
    counts = Counter(word for review in reviews for word in words(review.text))
    common = sorted(counts, key=lambda word: (-counts[word], word))
    return Vocabulary([PAD, UNKNOWN, *common[: size - 2]])


def encode(reviews: Sequence[data.Review], vocabulary: Vocabulary) -> Texts:
    """Every text as the ids that serving gives the model for it."""
    step = PREPROCESSING
    ids = [np.array(vocabulary.encode(review.text, step.max_length, step.keep), np.int32) for review in reviews]
    return Texts(ids=ids, labels=np.array([review.label for review in reviews], np.int32))


def encoded(parts: Mapping[str, Sequence[data.Review]], vocabulary: Vocabulary) -> Parts:
    """The parts that hold any text, encoded."""
    return {name: encode(part, vocabulary) for name, part in parts.items() if part}


def padded(ids: Sequence[Ids]) -> Ids:
    """One row a text, as long as the longest, with 0 at the end of the shorter ones."""
    rows = np.full((len(ids), max(map(len, ids))), _PAD_ID, np.int32)
    for row, text in zip(rows, ids, strict=True):
        row[: len(text)] = text
    return rows


def batches(
    texts: Texts, settings: Settings, random: np.random.Generator
) -> Iterator[tuple[Ids, npt.NDArray[np.int32]]]:
    """The texts in a random order, in batches of about equal length; some words and parts left out, as set."""
    ids = [_varied(text, settings, random) for text in texts.ids]
    lengths = np.array([len(text) for text in ids])
    order = np.argsort(lengths * random.uniform(0.9, 1.1, len(ids)))  # so that batches differ from epoch to epoch
    starts, start = [], 0
    while start < len(order):
        starts.append(start)
        longest = 1.25 * float(lengths[order[start]])  # about; the next texts are of about the same length
        start += max(1, min(settings.batch_texts, int(settings.batch_words / longest)))
    for index in random.permutation(len(starts)):
        chosen = order[starts[index] : (*starts, len(order))[index + 1]]
        yield padded([ids[text] for text in chosen]), texts.labels[chosen]


def _varied(text: Ids, settings: Settings, random: np.random.Generator) -> Ids:
    if len(text) > settings.crop_words and random.random() < settings.crop_rate:
        length = int(random.integers(settings.crop_words, len(text) + 1))
        start = int(random.integers(0, len(text) - length + 1))
        text = text[start : start + length]
    return np.where(random.random(len(text)) < settings.unknown_rate, np.int32(_UNKNOWN_ID), text)


# Model


def build(settings: Settings, vocabulary_size: int) -> keras.Model:
    """Word ids [n, length] to the two labels' probabilities."""
    layers, ops = keras.layers, keras.ops
    ids = layers.Input((None,), dtype="int32", name="ids")
    embedding = layers.Embedding(vocabulary_size, settings.embedding_size, name="embedding")
    is_word = ops.expand_dims(ops.cast(ops.not_equal(ids, _PAD_ID), "float32"), -1)
    words_ = ops.maximum(ops.sum(is_word, axis=1), 1)
    pooled = []
    for name, directed in zip(DIRECTIONS, (ids, reversed_ids(ids)), strict=True):
        embedded = layers.SpatialDropout1D(settings.embedding_dropout)(embedding(directed))
        states = layers.LSTM(settings.units, return_sequences=True, use_cudnn=False, name=name)(embedded)
        largest = ops.max(states - 2 * (1 - is_word), axis=1)  # states are between -1 and 1
        pooled += [largest, ops.sum(states * is_word, axis=1) / words_]
    dropped = layers.Dropout(settings.dropout)(layers.Concatenate()(pooled))
    return keras.Model(ids, layers.Dense(2, activation="softmax", name="probabilities")(dropped))


def reversed_ids(ids: Any) -> Any:
    """Each row's words from its last to its first, with the padding at the end as before."""
    ops = keras.ops
    length = ops.sum(ops.cast(ops.not_equal(ids, _PAD_ID), "int32"), axis=1, keepdims=True)
    place = ops.cumsum(ops.ones_like(ids), axis=1) - 1
    return ops.take_along_axis(ids, ops.where(place < length, length - 1 - place, place), axis=1)


# Fit and evaluate


def fit(
    settings: Settings, run: Run, vocabulary_size: int, texts: Callable[[int], Texts], held_out: Parts
) -> keras.Model:
    """The model after all epochs, which are logged with their accuracy on each held-out part.

    `texts` are those of the epoch of a number.
    """
    first, last = settings, of_short_texts(settings)
    steps = count_batches(texts(0), first)
    last_steps = count_batches(texts(settings.epochs), last) if settings.short_epochs else 0

    def make() -> tuple[keras.Model, keras.Optimizer]:
        early, late = settings.epochs * steps, settings.short_epochs * last_steps
        rate = rates.InTurn(
            rates.warmed_cosine(settings.learning_rate, early // 20, early),
            rates.warmed_cosine(settings.short_learning_rate, late // 20, late),
            change=early,
        )
        return build(settings, vocabulary_size), keras.optimizers.Adam(rate, clipnorm=1.0)

    def batches_of(epoch: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
        return epoch_of(texts(epoch), first if epoch < settings.epochs else last, epoch)

    return fitting.fit(
        make,
        keras.losses.sparse_categorical_crossentropy,
        batches_of,
        run,
        epochs=settings.epochs + settings.short_epochs,
        steps=steps,
        validate=lambda model: validated({name: predict(model, part) for name, part in held_out.items()}, held_out),
    )


def of_short_texts(settings: Settings) -> Settings:
    """The settings of the last epochs, whose texts are short as they come."""
    return dataclasses.replace(
        settings, crop_rate=0.0, batch_texts=settings.short_batch_texts, unknown_rate=settings.short_unknown_rate
    )


def validated(answers: Mapping[str, Floats], held_out: Parts) -> dict[str, float]:
    """The mean loss over all held-out texts, and the accuracy on each part."""
    expected = [found[np.arange(len(found)), held_out[name].labels] for name, found in answers.items()]
    loss = float(-np.log(np.maximum(np.concatenate(expected), 1e-7)).mean())
    accuracies = {f"held_out_{name}": accuracy(found, held_out[name]) for name, found in answers.items()}
    return {"held_out_loss": loss, **accuracies}


def count_batches(texts: Texts, settings: Settings) -> int:
    """About how many batches an epoch has; epochs differ a little."""
    return sum(1 for _ in batches(texts, settings, np.random.default_rng(settings.seed)))


def epoch_of(texts: Texts, settings: Settings, epoch: int) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """The batches of the epoch of that number."""
    random = np.random.default_rng((settings.seed, epoch))
    return ((tf.constant(ids), tf.constant(labels)) for ids, labels in batches(texts, settings, random))


# Scores of words and pairs


def occurrences(texts: Texts, settings: Settings, vocabulary_size: int) -> sparse.csr_matrix:
    """How often each word and each pair's place occurs in each text [n, words + pairs].

    A count is divided by about the square root of the text's length; much less is left of it in short texts.
    """
    lengths = np.array([len(ids) for ids in texts.ids])
    ids = np.concatenate(texts.ids)
    previous = np.roll(ids, 1)
    previous[np.cumsum(lengths) - lengths] = _PAD_ID
    columns = np.concatenate([ids, vocabulary_size + (previous * _SPREAD + ids) % settings.pairs])
    rows = np.tile(np.repeat(np.arange(len(lengths)), lengths), 2)
    values = np.tile(np.repeat(lengths / (lengths + _SHORT) ** 1.5, lengths), 2)
    return sparse.csr_matrix((values, (rows, columns)), shape=(len(lengths), vocabulary_size + settings.pairs))


def score_words(settings: Settings, vocabulary_size: int, reviews: Texts) -> Floats:
    """How much each word and each pair's place [words + pairs] speaks for praise, above 0, or blame.

    A logistic regression whose features are scaled by how much oftener they occur in praise than in blame: Wang and
    Manning, "Baselines and bigrams: simple, good sentiment and topic classification", 2012.
    """
    features = occurrences(reviews, settings, vocabulary_size)
    is_praise = reviews.labels == 1
    praise, blame = (1 + (features[part] > 0).sum(axis=0).A1 for part in (is_praise, ~is_praise))
    ratio = np.log(praise / praise.sum()) - np.log(blame / blame.sum())
    found = LogisticRegression(C=1 / settings.penalty, solver="liblinear", tol=1e-3, random_state=settings.seed)
    found.fit(features @ sparse.diags(ratio), reviews.labels)
    scores: Floats = (found.coef_[0] * ratio).astype(np.float16).astype(np.float32)  # as the ONNX file stores them
    scores[_PAD_ID] = 0
    return scores


def with_scores(model: keras.Model, settings: Settings, scores: Floats, held_out: Texts) -> keras.Model:
    """The model whose answer is the LSTM's and the scores' together, each weighted as suits the held-out texts.

    The weights are such that a probability means what it says (Platt's scaling). They are folded into the last layer.
    """
    vocabulary_size = len(scores) - settings.pairs
    probabilities = predict(model, held_out)
    logits = np.log(np.maximum(probabilities, 1e-12))
    said = np.stack([logits[:, 1] - logits[:, 0], occurrences(held_out, settings, vocabulary_size) @ scores], axis=1)
    weigh = LogisticRegression(C=1e6).fit(said, held_out.labels)
    lstm_weight, score_weight = weigh.coef_[0]
    print(f"weight of the LSTM {lstm_weight:.2f}, of the scores {score_weight:.2f}")
    last = model.get_layer("probabilities")
    dense, bias = last.get_weights()
    either = np.array([[-0.5, 0.5]], np.float32)
    whole = build_whole(model, len(scores), settings.pairs)
    whole.get_layer("scores").set_weights([scores[:, None]])
    whole.get_layer("probabilities").set_weights(
        [
            np.concatenate([dense * lstm_weight, either * score_weight]),
            bias * lstm_weight + either[0] * weigh.intercept_,
        ]
    )
    return whole


def build_whole(model: keras.Model, scores: int, pairs: int) -> keras.Model:
    """The graph of `build` with the score of the text beside what its last layer takes."""
    layers = keras.layers
    table = layers.Embedding(scores, 1, name="scores")
    features = layers.Concatenate()([model.get_layer("probabilities").input, score(model.input, table, pairs)])
    return keras.Model(model.input, layers.Dense(2, activation="softmax", name="probabilities")(features))


def score(ids: Any, table: keras.layers.Embedding, pairs: int) -> Any:
    """The sum [n, 1] of the scores of all words and pairs of the texts [n, length], as `occurrences` weighs them."""
    ops = keras.ops
    is_word = ops.not_equal(ids, _PAD_ID)
    previous = ops.pad(ids[:, :-1], ((0, 0), (1, 0)))
    places = ops.where(is_word, (previous * _SPREAD + ids) % pairs + (table.input_dim - pairs), _PAD_ID)
    total = ops.sum(table(ops.concatenate([ids, places], axis=1)), axis=1)
    words_ = ops.maximum(ops.sum(ops.cast(is_word, "float32"), axis=1, keepdims=True), 1)
    return total * words_ / (words_ + _SHORT) ** 1.5


def scores_of(answers: Mapping[str, Floats], parts: Parts) -> dict[str, float]:
    """Accuracy and expected calibration error of each part's answers."""
    scores: dict[str, float] = {}
    for name, texts in parts.items():
        scores[f"{name}_accuracy"] = accuracy(answers[name], texts)
        scores[f"{name}_calibration_error"] = expected_calibration_error(answers[name], texts.labels)
    return scores


def round_embedding(model: keras.Model) -> None:
    """Round the embeddings to the 16-bit floats that the ONNX file stores, so that every format holds the same."""
    layer = model.get_layer("embedding")
    layer.set_weights([layer.get_weights()[0].astype(np.float16).astype(np.float32)])


def predict(model: keras.Model, texts: Texts) -> Floats:
    """The probabilities [n, 2] of the texts, which are read in batches of about equal length."""
    run = tf.function(lambda ids: model(ids, training=False), input_signature=[tf.TensorSpec((None, None), tf.int32)])
    order = np.argsort([len(text) for text in texts.ids])
    probabilities = np.empty((len(order), len(LABELS)), np.float32)
    for start in range(0, len(order), 100):
        chosen = order[start : start + 100]
        probabilities[chosen] = run(tf.constant(padded([texts.ids[text] for text in chosen]))).numpy()
    return probabilities


def accuracy(probabilities: Floats, texts: Texts) -> float:
    """The part of the texts that get their label."""
    return float((probabilities.argmax(1) == texts.labels).mean())


# Export


def manifest(scores: dict[str, float], folder: data.DataFolder, run: Run) -> Manifest:
    """What the model says of itself."""
    return Manifest(
        name=NAME,
        version=1,
        description="Is a film review positive or negative? An LSTM trained on IMDB and on short sentences",
        signatures={
            DEFAULT_SIGNATURE: Signature(
                inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,), max_bytes=65536),),
                outputs=(TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 2)),),
            )
        },
        preprocessing=(PREPROCESSING,),
        batching=Batching(max_batch_size=32),
        labels=LABELS,
        example={"instances": ["What a wonderful film!", "A dull, lifeless film."]},
        scores=scores,
        limits=LIMITS,
        training=run.hyper_parameters,
        data=folder.hashes,
        licences=folder.licences,
    )


def publish(
    model: keras.Model,
    target: export.Target,
    description: Manifest,
    vocabulary: Vocabulary,
    test: Texts,
    pictures: plots.Plots,
) -> None:
    """Write the three formats, compare each with the trained model, publish."""
    answers = export.answers_of(model)
    export.publish(target, description, exports_of(model), answers, parity_batches(test), vocabulary, pictures)


def exports_of(model: keras.Model) -> export.Exports:
    """The model for every format; what it is exported from again is the ONNX file, which holds the same numbers."""
    return dataclasses.replace(
        export.exports_of(model), onnx_model=lambda: onnx_model(weights_of(model)), keras_model=None
    )


def reopened(folder: Path) -> tuple[export.Exports, parity.Run]:
    """A published version, from the weights in its ONNX file: its exports, and the model itself."""
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(folder / "model.onnx").graph.initializer}
    vocabulary_size, embedding_size = held["embedding"].shape
    settings = Settings(embedding_size=embedding_size, units=held["recurrent"].shape[-1])
    scores = held["scores"]
    model = build_whole(build(settings, vocabulary_size), len(scores), len(scores) - vocabulary_size)
    model.get_layer("embedding").set_weights([held["embedding"].astype(np.float32)])
    model.get_layer("scores").set_weights([scores.astype(np.float32)[:, None]])
    kernel, recurrent = (
        gates_in_order(held[name].swapaxes(1, 2), onnx_to_keras=True) for name in ("kernel", "recurrent")
    )
    bias = gates_in_order(held["bias"][:, : 4 * settings.units], onnx_to_keras=True)
    for direction, weights in zip(DIRECTIONS, zip(kernel, recurrent, bias, strict=True), strict=True):
        model.get_layer(direction).set_weights(weights)
    model.get_layer("probabilities").set_weights([held["dense"], held["dense_bias"]])
    return exports_of(model), export.answers_of(model)


def gates_in_order(array: Floats, *, onnx_to_keras: bool = False) -> Floats:
    """The last axis' gates in ONNX's order i, o, f, c in place of Keras' i, f, c, o; or the other way round."""
    first, second, third, fourth = np.split(array, 4, axis=-1)
    order = (first, third, fourth, second) if onnx_to_keras else (first, fourth, second, third)
    return np.concatenate(order, axis=-1)


def parity_batches(test: Texts) -> list[parity.Arrays]:
    """Batches of 1, 3 and 32 texts of mixed lengths."""
    starts = ((0, 1), (1, 3), (4, 32))
    return [{"ids": padded(test.ids[start : start + count])} for start, count in starts if len(test.ids) > start]


def weights_of(model: keras.Model) -> Weights:
    """The model's weights by name."""
    directions = [model.get_layer(name).get_weights() for name in DIRECTIONS]
    kernel, recurrent, bias = (np.stack(both) for both in zip(*directions, strict=True))
    dense, dense_bias = model.get_layer("probabilities").get_weights()
    return Weights(
        embedding=model.get_layer("embedding").get_weights()[0].astype(np.float16),
        kernel=kernel,
        recurrent=recurrent,
        bias=bias,
        scores=model.get_layer("scores").get_weights()[0][:, 0].astype(np.float16),
        dense=dense,
        dense_bias=dense_bias,
    )


def onnx_model(weights: Weights) -> onnx.ModelProto:
    """The same graph with ONNX's LSTM operator, whose gates come in the order i, o, f, c."""
    units = weights.recurrent.shape[1]

    def constant(name: str, value: npt.ArrayLike, dtype: Any = np.float32) -> onnx.TensorProto:
        return numpy_helper.from_array(np.ascontiguousarray(value, dtype), name)

    bias = np.pad(gates_in_order(weights.bias), ((0, 0), (0, 4 * units)))  # ONNX has a second bias; Keras has not
    initializers = [
        constant("embedding", weights.embedding, np.float16),
        constant("kernel", gates_in_order(weights.kernel).swapaxes(1, 2)),
        constant("recurrent", gates_in_order(weights.recurrent).swapaxes(1, 2)),
        constant("bias", bias),
        constant("dense", weights.dense),
        constant("dense_bias", weights.dense_bias),
        constant("scores", weights.scores, np.float16),
        constant("one_later", [1, 0, -1, 0], np.int64),
        constant("spread", _SPREAD, np.int32),
        constant("pairs", len(weights.scores) - len(weights.embedding), np.int32),
        constant("words", len(weights.embedding), np.int32),
        constant("short", _SHORT),
        constant("one_and_a_half", 1.5),
        constant("padding", _PAD_ID, np.int32),
        constant("one", 1),
        constant("below_all", -2),
        constant("first_axis", [0], np.int64),
        constant("second_axis", [1], np.int64),
        constant("other_axes", [1, 3], np.int64),
    ]
    node = helper.make_node
    nodes = [
        node("Transpose", ["ids"], ["by_word"], perm=[1, 0]),
        node("Greater", ["by_word", "padding"], ["is_word"]),
        node("Cast", ["is_word"], ["counts"], to=onnx.TensorProto.FLOAT),
        node("ReduceSum", ["counts", "first_axis"], ["any_length"], keepdims=0),
        node("Max", ["any_length", "one"], ["length"]),
        node("Cast", ["length"], ["sequence_lens"], to=onnx.TensorProto.INT32),
        node("Gather", ["embedding", "by_word"], ["embedded_16"]),
        node("Cast", ["embedded_16"], ["embedded"], to=onnx.TensorProto.FLOAT),
        node(
            "LSTM",
            ["embedded", "kernel", "recurrent", "bias", "sequence_lens"],
            ["states"],
            hidden_size=units,
            direction="bidirectional",
        ),
        node("Unsqueeze", ["is_word", "other_axes"], ["is_state"]),
        node("Where", ["is_state", "states", "below_all"], ["states_of_words"]),
        node("ReduceMax", ["states_of_words"], ["largest"], axes=[0], keepdims=0),
        node("ReduceSum", ["states", "first_axis"], ["total"], keepdims=0),  # they are 0 after a text's end
        node("Unsqueeze", ["length", "second_axis"], ["divisor"]),
        node("Div", ["total", "divisor"], ["mean"]),
        node("Concat", ["largest", "mean"], ["pooled"], axis=2),
        node("Transpose", ["pooled"], ["by_text"], perm=[1, 0, 2]),
        node("Flatten", ["by_text"], ["states_of_text"], axis=1),
        node("Pad", ["by_word", "one_later"], ["previous"]),
        node("Mul", ["previous", "spread"], ["spread_out"]),
        node("Add", ["spread_out", "by_word"], ["pair"]),
        node("Mod", ["pair", "pairs"], ["place_of_pair"]),
        node("Add", ["place_of_pair", "words"], ["place"]),
        node("Where", ["is_word", "place", "padding"], ["places"]),
        node("Concat", ["by_word", "places"], ["scored"], axis=0),
        node("Gather", ["scores", "scored"], ["scores_16"]),
        node("Cast", ["scores_16"], ["scores_32"], to=onnx.TensorProto.FLOAT),
        node("ReduceSum", ["scores_32", "first_axis"], ["total_score"], keepdims=0),
        node("Add", ["length", "short"], ["longer"]),
        node("Pow", ["longer", "one_and_a_half"], ["damping"]),
        node("Mul", ["total_score", "length"], ["weighed_score"]),
        node("Div", ["weighed_score", "damping"], ["score"]),
        node("Unsqueeze", ["score", "second_axis"], ["score_of_text"]),
        node("Concat", ["states_of_text", "score_of_text"], ["features"], axis=1),
        node("Gemm", ["features", "dense", "dense_bias"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    return export.onnx_from_nodes(
        NAME,
        nodes,
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT32, ["batch", "length"])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", 2])],
        initializers,
    )
