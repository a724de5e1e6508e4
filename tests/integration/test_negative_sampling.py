"""Skip-gram and CBOW against their formulas, pair by pair, and on made-up text whose neighbours are known."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
from training import negative_sampling, word2vec  # noqa: E402 - after the skip where TensorFlow is not installed
from training.negative_sampling import Architecture, Corpus, Shape, Tables  # noqa: E402
from training.runs import Epoch  # noqa: E402

SHAPE = Shape(window=2, block=4, span=2, spans=2, noise=5)
EVERY_WORD = np.ones(50)
NOISE = negative_sampling.noise_table(np.arange(50, 0, -1))


def _text(*paragraphs: Any) -> Corpus:
    words = np.concatenate(paragraphs).astype(np.int32)
    numbers = np.repeat(np.arange(len(paragraphs), dtype=np.int32), [len(paragraph) for paragraph in paragraphs])
    return Corpus(words=words, paragraphs=numbers, counts=np.bincount(words).astype(np.int64))


def _an_epoch(corpus: Corpus, seed: Any = 1) -> list[negative_sampling.Batch]:
    return list(negative_sampling.batches(corpus, EVERY_WORD, NOISE, SHAPE, seed))


def test_chances_to_keep_a_word_are_those_of_word2vec_c() -> None:
    counts = np.array([50_000, 900, 100, 3])
    total, threshold = counts.sum(), 1e-3

    chances = negative_sampling.chances_to_keep(counts, threshold)

    in_c = [((count / (threshold * total)) ** 0.5 + 1) * (threshold * total) / count for count in counts]
    np.testing.assert_allclose(chances, np.minimum(1, in_c))
    assert chances[0] < 0.2
    assert chances[3] == 1


def test_words_are_left_out_as_often_as_their_chance_says() -> None:
    corpus = _text(np.random.default_rng(1).permutation(np.repeat([0, 1, 2], [30_000, 2_000, 100])))
    chances = negative_sampling.chances_to_keep(corpus.counts, 1e-2)

    epoch = negative_sampling.batches(corpus, chances, NOISE, SHAPE, 1)
    kept = np.concatenate([words[..., 2:6][paragraphs[..., 2:6] >= 0] for words, paragraphs, _, _ in epoch])

    expected = chances * corpus.counts
    noise = 5 * np.sqrt(np.maximum(expected * (1 - chances), 1e-9))
    assert (np.abs(np.bincount(kept) - expected) <= noise).all()


def test_negative_samples_are_drawn_by_the_power_three_quarters_of_the_counts() -> None:
    counts = np.array([1_000_000, 3_000, 500, 20])

    table = negative_sampling.noise_table(counts)

    wanted = counts**0.75 / (counts**0.75).sum()
    np.testing.assert_allclose(np.bincount(table) / len(table), wanted, atol=2 / len(table))


def test_an_epochs_negative_samples_come_from_the_table() -> None:
    drawn = np.concatenate([noise.ravel() for *_, noise in _an_epoch(_text(np.zeros(40_000)))])

    wanted = np.bincount(NOISE) / len(NOISE)
    assert np.abs(np.bincount(drawn, minlength=50) / len(drawn) - wanted).max() < 5 * np.sqrt(0.25 / len(drawn))


def test_every_word_is_the_centre_of_its_own_surroundings_once() -> None:
    corpus = _text(range(9), range(9, 20), range(20, 31))

    found = {}
    for words, paragraphs, _, _ in _an_epoch(corpus):
        for row, numbers in zip(words.reshape(-1, 8), paragraphs.reshape(-1, 8), strict=True):
            for place in range(2, 6):
                if numbers[place] >= 0:
                    assert row[place] not in found
                    found[row[place]] = [
                        word if number >= 0 else None
                        for word, number in zip(row[place - 2 : place + 3], numbers[place - 2 :], strict=False)
                    ]

    assert found == {
        word: [near if 0 <= near < 31 else None for near in range(word - 2, word + 3)] for word in range(31)
    }


def test_reaches_are_drawn_evenly_up_to_the_window() -> None:
    reaches = Counter(np.concatenate([reach.ravel() for _, _, reach, _ in _an_epoch(_text(np.zeros(8_000)))]).tolist())

    assert set(reaches) == {1, 2}
    assert abs(reaches[1] - reaches[2]) < 5 * np.sqrt(8_000)


def test_an_epoch_depends_on_its_seed_alone() -> None:
    corpus = _text(np.random.default_rng(1).integers(0, 50, 300))

    first, again, other = (_an_epoch(corpus, seed) for seed in ((1, 0), (1, 0), (1, 1)))

    assert all((a == b).all() for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert any((a != b).any() for one, two in zip(first, other, strict=True) for a, b in zip(one, two, strict=True))


class PairByPair:
    """The gradients of one step as the papers write them: one word told after another, in Python's own floats."""

    def __init__(self, tables: Tables, negatives: int) -> None:
        self.inputs, self.outputs = (table.numpy().astype(float) for table in (tables.inputs, tables.outputs))
        self.of_inputs, self.of_outputs = np.zeros_like(self.inputs), np.zeros_like(self.outputs)
        self.negatives = negatives

    def contexts(self, batch: negative_sampling.Batch) -> Iterator[tuple[int, list[int], Any]]:
        words, paragraphs, reaches, noise = batch
        for span, block in np.ndindex(reaches.shape[:2]):
            text, numbers = words[span, block], paragraphs[span, block]
            for place, reach in zip(range(SHAPE.window, SHAPE.window + SHAPE.block), reaches[span, block], strict=True):
                near = [other for other in range(place - reach, place + reach + 1) if other != place]
                told = [text[other] for other in near if numbers[other] == numbers[place] >= 0]
                yield text[place], told, noise[span]

    def tell(self, vector: Any, output: int, noise: Any) -> Any:
        """Add to the gradients of the outputs; returns that of the vector which tells them."""
        towards = np.zeros_like(vector)
        samples = [(output, 1.0, 1.0), *((sample, 0.0, self.negatives / len(noise)) for sample in noise)]
        for word, label, weight in samples:
            error = weight * (1 / (1 + np.exp(-vector @ self.outputs[word])) - label)
            towards += error * self.outputs[word]
            self.of_outputs[word] += error * vector
        return towards

    def skipgram(self, batch: negative_sampling.Batch) -> None:
        for centre, context, noise in self.contexts(batch):
            for word in context:
                self.of_inputs[centre] += self.tell(self.inputs[centre], word, noise)

    def cbow(self, batch: negative_sampling.Batch) -> None:
        for centre, context, noise in self.contexts(batch):
            if context:
                error = self.tell(self.inputs[context].mean(axis=0), centre, noise)
                np.add.at(self.of_inputs, context, error)


@pytest.mark.parametrize("architecture", Architecture)
def test_a_step_adds_up_what_the_pairs_would_do_one_by_one(architecture: Architecture) -> None:
    random = np.random.default_rng(3)
    corpus = _text(*(random.integers(0, 50, length) for length in (1, 7, 2, 13)))
    tables = Tables.drawn(50, 6, random)
    tables.outputs.assign(random.normal(0, 0.5, (50, 6)))
    tables.inputs.assign(random.normal(0, 0.5, (50, 6)))
    sums = [table.numpy() for table in tables.sums]
    expected, rate = PairByPair(tables, negatives=4), 0.1
    batch = _an_epoch(corpus)[0]

    {"skipgram": expected.skipgram, "cbow": expected.cbow}[architecture](batch)
    negative_sampling.training_step(architecture, tables, SHAPE, 4)(*batch, rate)

    for table, before, first_sums, gradient in (
        (tables.inputs, expected.inputs, sums[0], expected.of_inputs),
        (tables.outputs, expected.outputs, sums[1], expected.of_outputs),
    ):
        after = before - rate * gradient / np.sqrt(first_sums + gradient**2)
        np.testing.assert_allclose(table.numpy(), after, atol=1e-5)
        assert np.abs(gradient).max() > 0.1


@pytest.fixture(scope="module", params=list(Architecture))
def learned(request: pytest.FixtureRequest) -> Any:
    """Vectors of words 0 to 24, row and column of a square each: a sentence is one of them between signs of its place.

    Signs of rows are the words 25 to 29, those of columns 30 to 34; words of a row (or a column) share their company.
    """
    random = np.random.default_rng(1)
    rows, columns = random.integers(0, 5, (2, 6_000))
    sentences = np.stack([25 + rows, 30 + columns, 5 * rows + columns, 25 + rows, 30 + columns], axis=1)
    settings = word2vec.Settings(
        architecture=request.param,
        epochs=4,
        size=16,
        window=3,
        subsampling=1.0,
        block=8,
        span=2,
        spans=8,
        shared_negatives=8,
    )
    training = word2vec.Training(settings, _text(*sentences))
    losses = [training.epoch(Epoch(number=number, of=settings.epochs)) for number in range(settings.epochs)]
    return losses, word2vec.finished(training.tables.inputs.numpy())[:25]


def test_the_loss_falls(learned: Any) -> None:
    losses, _ = learned

    assert losses[-1] < 0.95 * losses[0]


def test_words_of_the_same_company_are_the_nearest(learned: Any) -> None:
    _, vectors = learned

    nearest = np.argsort(-vectors @ vectors.T, axis=1)[:, 1:9]  # the word itself is the first

    words = np.arange(25)[:, None]
    akin = (nearest // 5 == words // 5) | (nearest % 5 == words % 5)
    assert akin.mean() > 0.8  # a third where nothing was learned


def test_analogies_hold_by_rows_and_columns(learned: Any) -> None:
    _, vectors = learned

    right = 0
    for first in range(25):
        row, column = (first // 5 + 2) % 5, (first % 5 + 3) % 5
        same_row, same_column = 5 * (first // 5) + column, 5 * row + first % 5
        similarities = (vectors[same_row] - vectors[first] + vectors[same_column]) @ vectors.T
        similarities[[first, same_row, same_column]] = -4
        right += int(similarities.argmax() == 5 * row + column)

    assert right >= 23
