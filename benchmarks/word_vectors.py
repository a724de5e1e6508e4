"""Are our word vectors as good as gensim's, and how fast are they learned? Skip-gram and CBOW, both by both.

    python -m benchmarks.word_vectors --data-dir .data     # half an hour; results in .runs/

Text, vocabulary, dimension, window, epochs, subsampling and number of negative samples are the same; gensim's rate and
our own are each library's default. The two train by turns, an epoch each, so that whatever else the machine does slows
both. Words/s are words of the text before subsampling, of the vocabulary that both were given, over the time of all
epochs. gensim reads them from a file of a paragraph a line, its fastest way in (`corpus_file`).

Exits with 1 where a score is below gensim's or the speed below half of gensim's.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gensim
import numpy as np
import tensorflow as tf
from gensim.models import Word2Vec

from millrace import provenance
from millrace.artifacts.vocabulary import Vocabulary
from training import data, word2vec
from training.negative_sampling import Architecture, Corpus
from training.runs import Epoch
from training.word2vec import Settings

ROOT = Path(__file__).parent.parent
_LEAST_SPEED = 0.5  # of gensim's
_RATE, _LAST_RATE = 0.025, 0.0001  # gensim's defaults
_SCORES = {"analogies_accuracy": "analogies", "wordsim353_spearman": "WordSim-353"}


class Gensim:
    """gensim's Word2Vec with our settings, on a text file that holds the same words."""

    def __init__(self, settings: Settings, vocabulary: Vocabulary, corpus: Corpus, text: Path, threads: int) -> None:
        self._words, self._text, self._count = vocabulary.entries, text, len(corpus.words)
        self._model = Word2Vec(
            vector_size=settings.size,
            window=settings.window,
            sg=int(settings.architecture is Architecture.SKIPGRAM),
            negative=settings.negatives,
            sample=settings.subsampling,
            min_count=1,
            workers=threads,
            seed=settings.seed,
        )
        self._model.build_vocab_from_freq(dict(zip(self._words, corpus.counts.tolist(), strict=True)))

    def epoch(self, epoch: Epoch) -> None:
        """Train for one epoch, at the rates that this epoch has in an unbroken training."""
        first, last = (_RATE - (_RATE - _LAST_RATE) * number / epoch.of for number in (epoch.number, epoch.number + 1))
        self._model.train(
            corpus_file=str(self._text), total_words=self._count, epochs=1, start_alpha=first, end_alpha=last
        )

    @property
    def vectors(self) -> word2vec.Floats:
        """The vectors, in the order of the vocabulary."""
        rows: word2vec.Floats = self._model.wv[self._words]
        return rows


def write_text(vocabulary: Vocabulary, corpus: Corpus, path: Path) -> None:
    """The corpus as words, a paragraph a line."""
    words = np.array(vocabulary.entries, object)
    starts = np.flatnonzero(np.diff(corpus.paragraphs)) + 1
    with path.open("w", encoding="ascii") as file:
        file.writelines(" ".join(words[paragraph]) + "\n" for paragraph in np.split(corpus.words, starts))


def timed(train: Callable[[Epoch], Any], epoch: Epoch) -> np.ndarray:
    """Seconds by the clock and seconds of CPU that an epoch takes."""
    clock, cpu = time.perf_counter(), time.process_time()
    train(epoch)
    return np.array([time.perf_counter() - clock, time.process_time() - cpu])


def compare(
    settings: Settings, vocabulary: Vocabulary, corpus: Corpus, folder: data.DataFolder, text: Path, threads: int
) -> dict[str, Any]:
    """Both libraries' words/s and scores for one architecture."""
    ours, theirs = word2vec.Training(settings, corpus), Gensim(settings, vocabulary, corpus, text, threads)
    spent = {"millrace": np.zeros(2), "gensim": np.zeros(2)}
    for number in range(settings.epochs):
        epoch = Epoch(number=number, of=settings.epochs)
        spent["gensim"] += timed(theirs.epoch, epoch)
        spent["millrace"] += timed(ours.epoch, epoch)
        print(f"{settings.architecture}, epoch {number + 1}/{settings.epochs}: ", end="")
        print(
            ", ".join(f"{name} {seconds[0]:.0f} s ({seconds[1]:.0f} s of CPU)" for name, seconds in spent.items()),
            flush=True,
        )
    vectors = {"millrace": ours.tables.inputs.numpy(), "gensim": theirs.vectors}
    total = len(corpus.words) * settings.epochs
    return {
        name: {
            "words_per_s": round(total / seconds[0]),
            "words_per_cpu_s": round(total / seconds[1]),
            **word2vec.evaluate(word2vec.finished(vectors[name]), vocabulary, folder),
        }
        for name, seconds in spent.items()
    }


def missed(results: dict[str, Any]) -> list[str]:
    """What falls short of gensim, in words."""
    found = []
    for architecture, by_library in results.items():
        ours, theirs = by_library["millrace"], by_library["gensim"]
        if ours["words_per_s"] < _LEAST_SPEED * theirs["words_per_s"]:
            found.append(f"{architecture}: less than {_LEAST_SPEED} of gensim's words/s")
        found += [
            f"{architecture}: {title} below gensim's" for key, title in _SCORES.items() if ours[key] < theirs[key]
        ]
    return found


def report(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    run, settings = result["run"], result["settings"]
    lines = [
        "# Word vectors beside gensim's\n",
        f"`{run['command']}`, commit {run['commit']}, {run['date']}, {run['cpu']}, {run['cores']} cores,"
        f" {result['threads']} threads each, load average before {run['load_average_before']},"
        f" TensorFlow {run['packages']['tensorflow']}, gensim {run['packages']['gensim']}.\n",
        f"{result['words']:,} words of English Wikipedia, {settings['vocabulary_size']:,} of them different;"
        f" {settings['size']} dimensions, window {settings['window']}, {settings['epochs']} epochs,"
        f" {settings['negatives']} negative samples, subsampling {settings['subsampling']:g}."
        " Analogies: the nearest word is the right one, of the questions whose words are all known; WordSim-353:"
        " Spearman's correlation.\n",
        "| | words/s | words per CPU second | analogies | WordSim-353 |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for architecture, by_library in result["results"].items():
        for name, found in by_library.items():
            lines.append(
                f"| {architecture}, {name} | {found['words_per_s']:,} | {found['words_per_cpu_s']:,} |"
                f" {found['analogies_accuracy']:.3f} | {found['wordsim353_spearman']:.3f} |"
            )
        ours, theirs = by_library["millrace"], by_library["gensim"]
        ratios = (f"{ours[key] / theirs[key]:.2f}" for key in ours)
        lines.append(f"| *{architecture}, millrace / gensim* | {' | '.join(ratios)} |")
    lines.append(f"\nFalls short: {'; '.join(result['missed']) or 'nowhere'}.")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the command; returns 0, or 1 where something falls short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=ROOT / ".data")
    parser.add_argument("--accept-other-data", action="store_true", help="also data files whose SHA-256 is another one")
    parser.add_argument("--epochs", type=int, default=Settings().epochs)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(".runs/word_vectors"))
    options = parser.parse_args()
    stamp = provenance.stamp()
    stamp["packages"] |= {"gensim": gensim.__version__, "tensorflow": tf.__version__}
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    folder = data.DataFolder(options.data_dir, accept_other=options.accept_other_data)
    settings = Settings(epochs=options.epochs)
    try:
        for tests in (word2vec.ANALOGIES, word2vec.SIMILARITIES):
            folder.file(tests)
        vocabulary, corpus = word2vec.read_corpus(folder, settings.vocabulary_size)
    except data.DataError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "corpus.txt"
        write_text(vocabulary, corpus, text)
        results = {
            str(architecture): compare(
                dataclasses.replace(settings, architecture=architecture),
                vocabulary,
                corpus,
                folder,
                text,
                options.threads,
            )
            for architecture in Architecture
        }
    result = {
        "run": stamp,
        "threads": options.threads,
        "words": len(corpus.words),
        "settings": dataclasses.asdict(settings),
        "data": folder.hashes,
        "results": results,
        "missed": missed(results),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    options.out.with_suffix(".md").write_text(report(result))
    print(report(result))
    return 1 if result["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
