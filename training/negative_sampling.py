"""Skip-gram and CBOW with negative sampling and subsampling, on whole blocks of running text at once.

Mikolov et al., "Distributed Representations of Words and Phrases and their Compositionality", NeurIPS 2013; where the
paper leaves a choice, as in word2vec.c and gensim: the chance to keep a frequent word, noise by the power 3/4 of the
counts, a reach drawn anew for each centre word, no pair across paragraphs, a rate that falls along a line, and for CBOW
the mean of the context, whose error goes to each of its words undivided.

What differs is the order of the work. Those programs take one pair after another. Here a step of Adagrad takes many
thousand words at once, in a few products of matrices: the text is cut into blocks with a window of text on either side,
whose pairs are one product, and a span of blocks shares its negative samples, which are another (as in Ji et al.,
"Parallelizing Word2Vec in Shared and Distributed Memory", 2016, where a window shares them). Each word's vector is
fetched once a block, not once a pair.

A word *tells* another where its vector as an input is scored with the other's as an output: in skip-gram a block's
words tell those in their windows, in CBOW the mean of a window tells the word in its middle.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_NOISE_POWER = 0.75
_NOISE_TABLE = 1 << 20
_FIRST_SUM = 0.1  # what Adagrad's sums begin with, so that the first steps of a rare word are not its longest
_EPSILON = 1e-6  # added to the roots of the sums
_WATCHED = 4  # spans of each step whose loss is computed: enough for a curve
_NO_PARAGRAPH = -1  # of the padding before and after the text

Ids = npt.NDArray[np.int32]
Batch = tuple[Ids, Ids, Ids, Ids]
_Rows = list[tuple[tf.Tensor, tf.Tensor]]  # ids, and a gradient for each; an id may be there more than once


class Architecture(StrEnum):
    """What tells what: a word the words around it, or they the word."""

    SKIPGRAM = "skipgram"
    CBOW = "cbow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Running text. `words` [n] are ids in the order of the text, `paragraphs` [n] rising numbers of their paragraphs.

    `counts` [vocabulary] tells how often each word occurs.
    """

    words: Ids
    paragraphs: Ids
    counts: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How text is cut: `block` words a block with `window` words on either side, `span` blocks a span, `spans` a step.

    The words of a span share `noise` negative samples.
    """

    window: int
    block: int
    span: int
    spans: int
    noise: int

    @property
    def stretch(self) -> int:
        """Words of a block with the text on either side of it."""
        return self.block + 2 * self.window

    @property
    def words(self) -> int:
        """Words of a step."""
        return self.spans * self.span * self.block

    @property
    def batch(self) -> tuple[tf.TensorSpec, ...]:
        """What a batch holds: words and their paragraphs, reaches, negative samples; of any number of spans."""
        shapes = ((self.span, self.stretch), (self.span, self.stretch), (self.span, self.block), (self.noise,))
        return tuple(tf.TensorSpec((None, *shape), tf.int32) for shape in shapes)


def chances_to_keep(counts: npt.NDArray[np.int64], threshold: float) -> npt.NDArray[np.float64]:
    """The chance of each word to be kept in an epoch; `threshold` is the frequency above which words are left out.

    Word2vec.c's form, which is gentler than the paper's: sqrt(t / f) + t / f.
    """
    relative = threshold * counts.sum() / counts
    chances: npt.NDArray[np.float64] = np.minimum(1, np.sqrt(relative) + relative)
    return chances


def noise_table(counts: npt.NDArray[np.int64]) -> Ids:
    """Ids, each as often as it is to be drawn as a negative sample: in proportion to its count to the power 3/4."""
    heights = np.cumsum(counts**_NOISE_POWER)
    return np.searchsorted(heights / heights[-1], (np.arange(_NOISE_TABLE) + 0.5) / _NOISE_TABLE).astype(np.int32)


def batches(corpus: Corpus, kept: npt.NDArray[np.float64], noise: Ids, shape: Shape, seed: Any) -> Iterator[Batch]:
    """One epoch in the form that a step takes: the spans of the text, in any order, less what is left out of it.

    Each batch is words and paragraphs [spans, span, stretch], reaches [spans, span, block] and negative samples
    [spans, noise]. `kept` is of `chances_to_keep`, `noise` of `noise_table`. The same seed gives the same epoch.
    """
    random = np.random.default_rng(seed)
    chosen = random.random(len(corpus.words), np.float32) < kept[corpus.words]
    words = _spans(corpus.words[chosen], shape, 0)
    paragraphs = _spans(corpus.paragraphs[chosen], shape, _NO_PARAGRAPH)
    order = random.permutation(len(words))
    for start in range(0, len(order), shape.spans):
        rows = order[start : start + shape.spans]
        reaches = random.integers(1, shape.window + 1, (len(rows), shape.span, shape.block), np.int32)
        yield words[rows], paragraphs[rows], reaches, noise[random.integers(0, len(noise), (len(rows), shape.noise))]


def _spans(text: Ids, shape: Shape, padding: int) -> Ids:
    count = -(-len(text) // (shape.span * shape.block))
    after = count * shape.span * shape.block - len(text) + shape.window
    padded = np.pad(text, (shape.window, after), constant_values=padding)
    stretches = np.lib.stride_tricks.sliding_window_view(padded, shape.stretch)[:: shape.block]
    return stretches[: count * shape.span].reshape(count, shape.span, shape.stretch)


def prefetched(epoch: Iterator[Batch]) -> Iterator[Batch]:
    """The batches of an epoch; another thread makes the next one while a step is computed."""
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(next, epoch, None)
        while batch := ahead.result():
            ahead = thread.submit(next, epoch, None)
            yield batch


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The vectors [words, size]: as `inputs`, which are the result, and as `outputs`; and Adagrad's `sums` of both."""

    inputs: tf.Variable
    outputs: tf.Variable
    sums: Sequence[tf.Variable]

    @classmethod
    def drawn(cls, words: int, size: int, random: np.random.Generator) -> "Tables":
        """As word2vec.c begins: inputs small and at random, outputs zero."""
        inputs = tf.Variable(random.uniform(-0.5 / size, 0.5 / size, (words, size)).astype(np.float32))
        outputs = tf.Variable(tf.zeros_like(inputs))
        return cls(
            inputs=inputs, outputs=outputs, sums=[tf.Variable(tf.fill(inputs.shape, _FIRST_SUM)) for _ in range(2)]
        )

    @property
    def variables(self) -> list[tf.Variable]:
        """All that a step changes."""
        return [self.inputs, self.outputs, *self.sums]


def training_step(architecture: Architecture, tables: Tables, shape: Shape, negatives: int) -> Callable[..., Any]:
    """A function of a batch and the learning rate that does one step of Adagrad and returns its loss for a word told.

    `negatives` is how many negative samples of each word told those of its span stand in for.
    """
    gradients = {Architecture.SKIPGRAM: _skipgram, Architecture.CBOW: _cbow}[architecture]
    places = np.arange(shape.stretch) - shape.window
    distances = np.abs(np.arange(shape.block)[:, None] - places).astype(np.int32)
    inside = slice(shape.window, shape.window + shape.block)

    def step(
        words: tf.Tensor, paragraphs: tf.Tensor, reaches: tf.Tensor, noise: tf.Tensor, rate: tf.Tensor
    ) -> tf.Tensor:
        own = paragraphs[..., inside]
        reaches = tf.where(own == _NO_PARAGRAPH, 0, reaches)
        pairs = (distances > 0) & (distances <= reaches[..., None]) & (own[..., None] == paragraphs[:, :, None, :])
        text = _Text(words=words, centres=words[..., inside], noise=noise, pairs=tf.cast(pairs, tf.float32))
        loss, of_inputs, of_outputs = gradients(tables, text, negatives / shape.noise)
        _update(tables.inputs, tables.sums[0], of_inputs, rate)
        _update(tables.outputs, tables.sums[1], of_outputs, rate)
        return loss

    result: Callable[..., Any] = tf.function(step, input_signature=[*shape.batch, tf.TensorSpec((), tf.float32)])
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Text:
    """A batch as a step sees it.

    `words` [spans, span, stretch] and among them the `centres` [spans, span, block]; `noise` [spans, noise]; `pairs`
    [spans, span, block, stretch]: 1 where the second word is in the window of the first.
    """

    words: tf.Tensor
    centres: tf.Tensor
    noise: tf.Tensor
    pairs: tf.Tensor


def _skipgram(tables: Tables, text: _Text, share: float) -> tuple[tf.Tensor, _Rows, _Rows]:
    """The loss, and ids and gradients of rows of both tables: each centre tells the words in its window."""
    inputs, outputs = tf.gather(tables.inputs, text.centres), tf.gather(tables.outputs, text.words)
    scores = tf.matmul(inputs, outputs, transpose_b=True)
    errors = text.pairs * (tf.sigmoid(scores) - 1)
    told = tf.reduce_sum(text.pairs, 3)
    loss, of_inputs, of_noise = _noise(tables, inputs, text.noise, share * told)
    loss += tf.reduce_sum(text.pairs[:_WATCHED] * tf.nn.softplus(-scores[:_WATCHED]))
    of_outputs = [(text.words, tf.matmul(errors, inputs, transpose_a=True)), (text.noise, of_noise)]
    return _for_each(loss, told), [(text.centres, tf.matmul(errors, outputs) + of_inputs)], of_outputs


def _cbow(tables: Tables, text: _Text, share: float) -> tuple[tf.Tensor, _Rows, _Rows]:
    """The loss, and ids and gradients of rows of both tables: the mean of a window tells its centre."""
    context = tf.reduce_sum(text.pairs, 3, keepdims=True)
    means = tf.matmul(tf.math.divide_no_nan(text.pairs, context), tf.gather(tables.inputs, text.words))
    outputs = tf.gather(tables.outputs, text.centres)
    scores = tf.reduce_sum(means * outputs, 3, keepdims=True)
    told = tf.minimum(context, 1.0)  # a word alone in its window is told by nothing
    errors = told * (tf.sigmoid(scores) - 1)
    loss, of_means, of_noise = _noise(tables, means, text.noise, share * told[..., 0])
    loss += tf.reduce_sum(told[:_WATCHED] * tf.nn.softplus(-scores[:_WATCHED]))
    of_words = tf.matmul(text.pairs, errors * outputs + of_means, transpose_a=True)
    return _for_each(loss, told), [(text.words, of_words)], [(text.centres, errors * means), (text.noise, of_noise)]


def _noise(
    tables: Tables, vectors: tf.Tensor, noise: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The loss of vectors [spans, span, block, size] with their spans' negative samples, and the gradients of both."""
    shape = tf.shape(vectors)
    of_a_span = (shape[0], -1, vectors.shape[3])
    inputs, outputs = tf.reshape(vectors, of_a_span), tf.gather(tables.outputs, noise)
    scores = tf.matmul(inputs, outputs, transpose_b=True)
    weights = tf.reshape(weights, (shape[0], -1, 1))
    errors = weights * tf.sigmoid(scores)
    loss = tf.reduce_sum(weights[:_WATCHED] * tf.nn.softplus(scores[:_WATCHED]))
    return loss, tf.reshape(tf.matmul(errors, outputs), shape), tf.matmul(errors, inputs, transpose_a=True)


def _for_each(loss: tf.Tensor, told: tf.Tensor) -> tf.Tensor:
    return tf.math.divide_no_nan(loss, tf.reduce_sum(told[:_WATCHED]))


def _update(table: tf.Variable, sums: tf.Variable, gradients: _Rows, rate: tf.Tensor) -> None:
    """Adagrad (Duchi et al. 2011) by a table's rows: those of one id are added up first, as they are of one step."""
    words, size = table.shape
    ids = tf.concat([tf.reshape(ids, (-1,)) for ids, _ in gradients], 0)
    rows = tf.concat([tf.reshape(rows, (-1, size)) for _, rows in gradients], 0)
    gradient = tf.math.unsorted_segment_sum(rows, ids, words)
    tf.raw_ops.ResourceApplyAdagradV2(var=table.handle, accum=sums.handle, lr=rate, epsilon=_EPSILON, grad=gradient)
