"""Film reviews, positive or negative: an LSTM over words, trained on IMDB and on short sentences of reviews.

    python -m training sentiment

takes about five minutes on two cores and reaches 88 % on the IMDB test set.
Reviews of up to 400 words are read whole, of longer ones the end. In every epoch some reviews are cut to a random part,
and the phrases of SST-2 and rt-polarity are mixed in where their files are there, so that a single sentence is
understood too. The epoch that does best on a held-out part of the training reviews is kept; the test set is read once.

The exported graphs take word ids, 0 at the end of a row being padding. The LSTM runs forwards, so padding at the end
cannot reach the words before it, and the pooling over its states leaves padding out: a text's answer does not depend
on its batch. ONNX and TFLite have LSTM operators of their own; TFLite's takes one text at a time.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import onnx
import tensorflow as tf
from onnx import helper, numpy_helper

from millrace.artifacts.manifest import Batching, Manifest, Tokenize
from millrace.artifacts.vocabulary import PAD, UNKNOWN, Vocabulary, words
from millrace.protocol.tensors import DEFAULT_SIGNATURE, Signature, TensorSpec
from training import data, export, fitting, parity, plots
from training.calibration import expected_calibration_error
from training.runs import Run

NAME = "sentiment"
LABELS = ("negative", "positive")
LIMITS = (
    "English only; other languages and unknown words say nothing to it.",
    "It learned from film reviews: of other texts it judges the tone, not the facts.",
    "There is no neutral answer; a text without an opinion gets a probability all the same.",
)
PREPROCESSING = Tokenize(input="text", output="ids", max_length=400, keep="end")
_PAD_ID, _UNKNOWN_ID = 0, 1

Ids = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Hyper-parameters; each is a flag of the command."""

    epochs: int = 6
    vocabulary_size: int = 20_000
    embedding_size: int = 64
    units: int = 96
    learning_rate: float = 2e-3  # the peak; it then falls to 0 along a cosine
    embedding_dropout: float = 0.3  # of whole columns of a text's embeddings
    dropout: float = 0.4  # before the last layer
    unknown_rate: float = 0.08  # of words that are hidden in training
    crop_rate: float = 0.5  # of reviews that are cut to a part of at least `crop_words` words
    crop_words: int = 40
    batch_words: int = 16_000  # words in a batch, padding included
    batch_texts: int = 128  # texts in a batch at most
    validation: int = 2_000  # reviews held out of the training set
    seed: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The trained model's numbers, in Keras' layout: the gates in the order i, f, c, o."""

    embedding: npt.NDArray[np.float16]  # [words, embedding]
    kernel: Floats  # [embedding, 4 units]
    recurrent: Floats  # [units, 4 units]
    bias: Floats  # [4 units]
    dense: Floats  # [2 units, 2]: for the largest state, then for the mean state
    dense_bias: Floats  # [2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Encoded texts with their labels, 0 or 1."""

    ids: list[Ids]
    labels: npt.NDArray[np.int32]


def train(settings: Settings, folder: data.DataFolder, target: export.Target, run: Run) -> None:
    """Train, evaluate, export and publish; the steps below in their order."""
    run.cluster.check_alone(NAME)
    reviews, sentences = data.imdb(folder, data.IMDB_TRAIN), joined(data.sentences(folder))
    held_out, reviews = reviews[: settings.validation], reviews[settings.validation :]
    vocabulary = build_vocabulary([*reviews, *sentences], settings.vocabulary_size)
    model = build(settings, len(vocabulary))
    print(f"{model.count_params():,} parameters, {len(reviews):,} reviews, {len(sentences):,} sentences")
    fit(model, settings, run, *(encode(part, vocabulary) for part in (reviews, sentences, held_out)))
    round_embedding(model)
    test = encode(data.imdb(folder, data.IMDB_TEST), vocabulary)
    probabilities = predict(model, test)
    scores = {
        "imdb_test_accuracy": accuracy(probabilities, test),
        "imdb_test_calibration_error": expected_calibration_error(probabilities, test.labels),
    }
    print(", ".join(f"{name.replace('_', ' ')}: {score:.4f}" for name, score in scores.items()))
    pictures = plots.of_classifier(run.history, probabilities, test.labels, LABELS)
    publish(model, target, manifest(scores, folder, run), vocabulary, test, pictures)


# Data


def joined(sentences: Sequence[data.Review]) -> list[data.Review]:
    """The sentences with their contractions written together (`do n't`, `it 's`), as everybody else writes them."""
    return [
        data.Review(text=sentence.text.replace(" n't", "n't").replace(" '", "'"), label=sentence.label)
        for sentence in sentences
    ]


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
    embedded = layers.Embedding(vocabulary_size, settings.embedding_size, name="embedding")(ids)
    embedded = layers.SpatialDropout1D(settings.embedding_dropout)(embedded)
    states = layers.LSTM(settings.units, return_sequences=True, use_cudnn=False, name="lstm")(embedded)
    is_word = ops.cast(ops.expand_dims(ops.not_equal(ids, _PAD_ID), -1), "float32")
    largest = ops.max(states - 2 * (1 - is_word), axis=1)  # states are between -1 and 1
    mean = ops.sum(states * is_word, axis=1) / ops.maximum(ops.sum(is_word, axis=1), 1)
    pooled = layers.Dropout(settings.dropout)(layers.Concatenate()([largest, mean]))
    return keras.Model(ids, layers.Dense(2, activation="softmax", name="probabilities")(pooled))


# Fit and evaluate


def fit(model: keras.Model, settings: Settings, run: Run, reviews: Texts, sentences: Texts, held_out: Texts) -> None:
    """Train on reviews and sentences together; keep the weights of the epoch that is best on the held-out reviews."""
    both = Texts(ids=reviews.ids + sentences.ids, labels=np.concatenate([reviews.labels, sentences.labels]))
    each = sum(
        1 for _ in batches(both, settings, np.random.default_rng(settings.seed))
    )  # about; epochs differ a little
    steps = settings.epochs * each
    rate = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0, decay_steps=steps, warmup_target=settings.learning_rate, warmup_steps=steps // 20
    )
    optimizer = keras.optimizers.Adam(rate, clipnorm=1.0)
    optimizer.build(model.trainable_variables)
    update = fitting.training_step(model, optimizer, keras.losses.sparse_categorical_crossentropy, run.cluster.strategy)
    best = tf.Variable(-1.0)
    kept = [tf.Variable(weight) for weight in model.get_weights()]
    for epoch in run.epochs(settings.epochs, [*model.variables, *optimizer.variables, best, *kept]):
        random = np.random.default_rng((settings.seed, epoch.number))
        losses = [
            update(tf.constant(ids), tf.constant(labels))
            for ids, labels in epoch.progress(batches(both, settings, random), each)
        ]
        held_out_accuracy = accuracy(predict(model, held_out), held_out)
        epoch.metrics |= {"loss": float(np.mean(losses)), "held_out_accuracy": held_out_accuracy}
        if held_out_accuracy >= float(best):
            best.assign(held_out_accuracy)
            for variable, weight in zip(kept, model.get_weights(), strict=True):
                variable.assign(weight)
    model.set_weights([variable.numpy() for variable in kept])


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
    (words, size), units = held["embedding"].shape, held["recurrent"].shape[-1]
    model = build(Settings(embedding_size=size, units=units), words)
    model.get_layer("embedding").set_weights([held["embedding"].astype(np.float32)])
    kernel, recurrent = (gates_in_order(held[name][0].T, onnx_to_keras=True) for name in ("kernel", "recurrent"))
    bias = gates_in_order(held["bias"][0, : 4 * units], onnx_to_keras=True)
    model.get_layer("lstm").set_weights([kernel, recurrent, bias])
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
    kernel, recurrent, bias = model.get_layer("lstm").get_weights()
    dense, dense_bias = model.get_layer("probabilities").get_weights()
    return Weights(
        embedding=model.get_layer("embedding").get_weights()[0].astype(np.float16),
        kernel=kernel,
        recurrent=recurrent,
        bias=bias,
        dense=dense,
        dense_bias=dense_bias,
    )


def onnx_model(weights: Weights) -> onnx.ModelProto:
    """The same graph with ONNX's LSTM operator, whose gates come in the order i, o, f, c."""
    units = len(weights.recurrent)

    def constant(name: str, value: npt.ArrayLike, dtype: Any = np.float32) -> onnx.TensorProto:
        return numpy_helper.from_array(np.ascontiguousarray(value, dtype), name)

    bias = np.concatenate([gates_in_order(weights.bias), np.zeros(4 * units)])  # ONNX has a second bias; Keras has not
    initializers = [
        constant("embedding", weights.embedding, np.float16),
        constant("kernel", gates_in_order(weights.kernel).T[None]),
        constant("recurrent", gates_in_order(weights.recurrent).T[None]),
        constant("bias", bias[None]),
        constant("dense", weights.dense),
        constant("dense_bias", weights.dense_bias),
        constant("padding", _PAD_ID, np.int32),
        constant("one", 1),
        constant("two", 2),
        constant("first_axis", [0], np.int64),
        constant("second_axis", [1], np.int64),
        constant("last_axis", [2], np.int64),
    ]
    node = helper.make_node
    nodes = [
        node("Transpose", ["ids"], ["by_word"], perm=[1, 0]),
        node("Equal", ["by_word", "padding"], ["is_padding"]),
        node("Not", ["is_padding"], ["is_word"]),
        node("Cast", ["is_word"], ["counts"], to=onnx.TensorProto.FLOAT),
        node("ReduceSum", ["counts", "first_axis"], ["any_length"], keepdims=0),
        node("Max", ["any_length", "one"], ["length"]),
        node("Cast", ["length"], ["sequence_lens"], to=onnx.TensorProto.INT32),
        node("Gather", ["embedding", "by_word"], ["embedded_16"]),
        node("Cast", ["embedded_16"], ["embedded"], to=onnx.TensorProto.FLOAT),
        node(
            "LSTM",
            ["embedded", "kernel", "recurrent", "bias", "sequence_lens"],
            ["directions"],
            hidden_size=units,
        ),
        node("Squeeze", ["directions", "second_axis"], ["states"]),
        node("Unsqueeze", ["counts", "last_axis"], ["mask"]),
        node("Sub", ["one", "mask"], ["outside"]),
        node("Mul", ["outside", "two"], ["penalty"]),
        node("Sub", ["states", "penalty"], ["penalised"]),
        node("ReduceMax", ["penalised"], ["largest"], axes=[0], keepdims=0),
        node("Mul", ["states", "mask"], ["counted"]),
        node("ReduceSum", ["counted", "first_axis"], ["total"], keepdims=0),
        node("Unsqueeze", ["length", "second_axis"], ["divisor"]),
        node("Div", ["total", "divisor"], ["mean"]),
        node("Concat", ["largest", "mean"], ["pooled"], axis=1),
        node("Gemm", ["pooled", "dense", "dense_bias"], ["logits"]),
        node("Softmax", ["logits"], ["probabilities"], axis=1),
    ]
    return export.onnx_from_nodes(
        NAME,
        nodes,
        [helper.make_tensor_value_info("ids", onnx.TensorProto.INT32, ["batch", "length"])],
        [helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["batch", 2])],
        initializers,
    )
