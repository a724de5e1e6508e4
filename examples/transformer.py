"""A model of your own, 2: a small transformer that tells whether a sentence is positive or negative.

    python -m training examples/transformer.py --data-dir .data
    millrace up --models models
    curl localhost:8000/v1/models/mood:predict -d '{"instances": ["What a wonderful film!"]}'

takes about five minutes on two cores and is right for 80 % of the sentences of SST-2's development set, which choose
nothing here. Texts become word ids as in `sentiment`, by a vocabulary that is published with the model; padding is
masked in the graph. One block of self-attention with two heads (Vaswani et al., "Attention is all you need", 2017),
then the mean over the words.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from millrace.artifacts.manifest import Manifest, Tokenize
from millrace.artifacts.vocabulary import PAD, UNKNOWN, Vocabulary, words
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from training import data, export, fitting, plots
from training.runs import Run

NAME = "mood"
LABELS = ("negative", "positive")
PREPROCESSING = Tokenize(input="text", output="ids", max_length=64)

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hyper-parameters; each is a flag of the command."""

    epochs: int = 4
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    vocabulary_size: int = 10_000
    size: int = 64  # of a word's vector
    heads: int = 2
    dropout: float = 0.2
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Word ids [n, 64], with 0 after the end of a text, and labels [n], 0 or 1."""

    ids: Ids
    labels: Ids


def train(settings: Settings, folder: data.DataFolder, target: export.Target, run: Run) -> None:
    """Train, evaluate, export and publish."""
    reviews = data.sentences(folder)
    if not reviews:
        raise data.DataError(f"{folder.root} holds none of the sentences to train on; see docs/howto/train.md")
    vocabulary = vocabulary_of(reviews, settings.vocabulary_size)
    texts, test = encoded(reviews, vocabulary), encoded(data.read_tsv(folder.file(data.SST2_DEV)), vocabulary)
    model = fit(settings, texts, len(vocabulary), run)
    if not run.cluster.is_chief:
        return
    probabilities = model.predict(test.ids, verbose=0)
    scores = {"sst2_dev_accuracy": float((probabilities.argmax(1) == test.labels).mean())}
    export.publish(
        target,
        manifest(scores, folder, run),
        export.exports_of(model),
        export.answers_of(model),
        [{"ids": shortened(test.ids[start : start + count])} for start, count in ((0, 1), (1, 3), (4, 32))],
        vocabulary,
        plots.of_classifier(run.history, probabilities, test.labels, LABELS),
    )


# Data


def vocabulary_of(reviews: Sequence[data.Review], size: int) -> Vocabulary:
    """The commonest words, after the two special ones."""
    counts = Counter(word for review in reviews for word in words(review.text))
    return Vocabulary([PAD, UNKNOWN, *sorted(counts, key=lambda word: (-counts[word], word))[: size - 2]])


def encoded(reviews: Sequence[data.Review], vocabulary: Vocabulary) -> Texts:
    """Every text as the ids that serving gives the model for it."""
    ids = np.zeros((len(reviews), PREPROCESSING.max_length), np.int32)
    for row, review in zip(ids, reviews, strict=True):
        found = vocabulary.encode(review.text, PREPROCESSING.max_length)
        row[: len(found)] = found
    return Texts(ids=ids, labels=np.array([review.label for review in reviews], np.int32))


def shortened(ids: Ids) -> Ids:
    """The rows without the columns in which all are padding."""
    return ids[:, : max(1, int((ids > 0).sum(axis=1).max()))]


# Model and fit


def build(settings: Settings, vocabulary_size: int) -> keras.Model:
    """Word ids [n, length] to the two labels' probabilities."""
    layers, ops = keras.layers, keras.ops
    ids = layers.Input((None,), dtype="int32", name="ids")
    places = ops.minimum(ops.cumsum(ops.ones_like(ids), axis=1) - 1, PREPROCESSING.max_length - 1)
    is_word = ops.not_equal(ids, 0)
    vectors = layers.Embedding(vocabulary_size, settings.size)(ids)
    vectors += layers.Embedding(PREPROCESSING.max_length, settings.size)(places)
    attention = layers.MultiHeadAttention(settings.heads, settings.size // settings.heads, dropout=settings.dropout)
    vectors += attention(*[layers.LayerNormalization()(vectors)] * 2, attention_mask=ops.expand_dims(is_word, 1))
    hidden = layers.Dense(2 * settings.size, activation="relu")(layers.LayerNormalization()(vectors))
    vectors += layers.Dense(settings.size)(layers.Dropout(settings.dropout)(hidden))
    weights = ops.expand_dims(ops.cast(is_word, "float32"), -1)
    mean = ops.sum(vectors * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)
    mean = layers.Dropout(settings.dropout)(mean)
    return keras.Model(ids, layers.Dense(2, activation="softmax", name="probabilities")(mean))


def fit(settings: Settings, texts: Texts, vocabulary_size: int, run: Run) -> keras.Model:
    """The model after all epochs."""
    size = min(settings.batch_size, len(texts.ids))
    steps = len(texts.ids) // size
    share = run.cluster.share(size)

    def make() -> tuple[keras.Model, keras.Optimizer]:
        count = settings.epochs * steps
        optimizer = fitting.cosine_adamw(settings.learning_rate, settings.weight_decay, count, count // 10)
        return build(settings, vocabulary_size), optimizer

    def batches(epoch: int) -> Iterator[tuple[Any, Any]]:
        order = np.random.default_rng((settings.seed, epoch)).permutation(len(texts.ids))
        for rows in order[: steps * size].reshape(steps, size)[:, share]:
            yield tf.constant(shortened(texts.ids[rows])), tf.constant(texts.labels[rows])

    loss = keras.losses.sparse_categorical_crossentropy
    return fitting.fit(make, loss, batches, run, epochs=settings.epochs, steps=steps)


# Export


def manifest(scores: dict[str, float], folder: data.DataFolder, run: Run) -> Manifest:
    """What the model says of itself."""
    return Manifest(
        name=NAME,
        version=1,
        description="Is a sentence positive or negative? A small transformer trained on sentences of film reviews",
        signatures={
            DEFAULT_SIGNATURE: Signature(
                inputs=(TensorSpec(name="text", datatype="BYTES", shape=(-1,), max_bytes=65536),),
                outputs=(TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 2)),),
            )
        },
        preprocessing=(PREPROCESSING,),
        labels=LABELS,
        example={"instances": ["What a wonderful film!", "A dull, lifeless film."]},
        scores=scores,
        limits=("English sentences of up to 64 words; of longer ones the beginning is read.",),
        training=run.hyper_parameters,
        data=folder.hashes,
        licences=folder.licences,
    )
