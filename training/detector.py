"""The detector of the digit models: is there a digit at all?

    python -m training detector models/digits/1 models/digits-student/1

takes about five minutes on two cores, writes `detector.npz` into the versions' folders and names it in their manifests:
the worker then refuses image files on which it sees no digit (see `millrace.artifacts.detector`). The models' own
files stay as they are.

The network learns eleven answers, the ten digits and none of them. The digits are those of MNIST, distorted as for the
digit models, some of them put on paper and read again, and drawn and printed ones. What is none of them is made, see
`nondigits`. The threshold is chosen on held-out digits: about one in two thousand is refused.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from millrace.artifacts import manifest
from millrace.artifacts.detector import FILE_NAME, Detector, names
from millrace.artifacts.manifest import DecodeImage, ManifestError
from training import cards, data, digits, nondigits, robustness
from training.augmentation import Distortions, distorted

_NONE = 10  # the label of what is no digit
_HELD_OUT = 2_000
_EACH = 36_000  # images of digits in an epoch, and as many of none
_PLAIN = 0.3  # of them are not distorted
_BATCH = 256
_REFUSED = 0.0005  # of held-out digits
_SEED = 1

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer]


def main(argv: Sequence[str]) -> int:
    """Train, measure and write; returns 0, or 1 where data or a version's folder are not what they should be."""
    parser = argparse.ArgumentParser(
        prog="python -m training detector", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="versions of digit models")
    parser.add_argument("--data-dir", type=Path, default=Path(".data"), help="MNIST; see docs/howto/train.md")
    parser.add_argument("--epochs", type=int, default=16, help="[%(default)s]")
    options = parser.parse_args(argv)
    try:
        detector, scores = train(data.DataFolder(options.data_dir), options.epochs)
        for folder in options.folders:
            add_to(folder, detector, scores)
    except (data.DataError, ManifestError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


def train(folder: data.DataFolder, epochs: int) -> tuple[Detector, dict[str, float]]:
    """The detector, and how much of what it refuses by kind. Raises `DataError`."""
    found = digits.read(folder, _HELD_OUT)
    random = np.random.default_rng(_SEED)
    pools = nondigits.pools(found.images[..., 0], found.labels, random)
    model = fit(found, pools, epochs)
    detector = calibrated(model, found)
    test = np.mean([not detector.sees_digit(image.astype(np.float32)) for image in found.test_images])
    scores = {"digits_refused": float(test)}
    print(f"refused of MNIST's test images: {test:.2%}, of images without a digit that it learned from: ", end="")
    print(f"{np.mean([not detector.sees_digit(image[..., None]) for pool, _ in pools for image in pool[::50]]):.1%}")
    return detector, scores


def calibrated(model: keras.Model, found: digits.Digits) -> Detector:
    """The trained network in NumPy, with the threshold that refuses one held-out digit in two thousand."""
    detector = Detector(weights_of(model), 0.0)
    held_out = [found.held_out_images.astype(np.float32)]
    held_out += [made().images for made in robustness.digit_sets(found.held_out_images, found.held_out_labels).values()]
    evidence = [detector.evidence(image) for images in held_out for image in images]
    return Detector(weights_of(model), float(np.quantile(evidence, _REFUSED)))


def add_to(folder: Path, detector: Detector, scores: dict[str, float]) -> None:
    """Put the detector beside a version's model. Raises `ManifestError`."""
    description = manifest.read(folder)
    if description is None or not any(isinstance(step, DecodeImage) for step in description.preprocessing):
        raise ManifestError(f"{folder} holds no published model that takes images")
    detector.write(folder / FILE_NAME)
    description = msgspec.structs.replace(
        description,
        preprocessing=tuple(
            msgspec.structs.replace(step, detector=FILE_NAME) if isinstance(step, DecodeImage) else step
            for step in description.preprocessing
        ),
        scores={**description.scores, **scores},
        limits=digits.LIMITS,
    )
    cards.write(folder, description)
    changed = {name: manifest.file_hash(folder / name) for name in (FILE_NAME, cards.FILE_NAME)}
    manifest.save(folder, msgspec.structs.replace(description, files={**description.files, **changed}))
    print(f"wrote {folder / FILE_NAME}")


# Model


def build() -> keras.Model:
    """Pixels [n, 28, 28, 1], 0 to 255, to the logits of ten digits and of none of them."""
    layers = keras.layers
    model = [layers.Input((28, 28, 1)), layers.Rescaling(1 / 255)]
    for name, filters, side, step, padding in (
        ("first", 16, 5, 2, "same"),
        ("second", 32, 3, 2, "same"),
        ("third", 48, 3, 1, "valid"),
    ):
        model += [
            layers.Conv2D(filters, side, strides=step, padding=padding, use_bias=False, name=name),
            layers.BatchNormalization(momentum=0.98, name=f"{name}_normalised"),
            layers.ReLU(),
        ]
    dense = [layers.Flatten(), layers.Dropout(0.2), layers.Dense(64, activation="relu", name="dense")]
    return keras.Sequential([*model, *dense, layers.Dense(_NONE + 1, name="answers")])


def fit(found: digits.Digits, pools: Sequence[tuple[Images, float]], epochs: int) -> keras.Model:
    """The model after all epochs."""
    keras.utils.set_random_seed(_SEED)
    model = build()
    rate = keras.optimizers.schedules.CosineDecay(4e-3, epochs * 2 * _EACH // _BATCH)
    model.compile(keras.optimizers.AdamW(rate, 1e-4), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    others = list(other_digits(found, np.random.default_rng(_SEED + 1)))
    for epoch in range(epochs):
        random = np.random.default_rng((_SEED, epoch))
        images, labels = _epoch(found, others, pools, random)
        history = model.fit(images, labels, batch_size=_BATCH, shuffle=False, verbose=0).history
        print(f"epoch {epoch + 1}/{epochs}: loss {history['loss'][0]:.4f}", flush=True)
    return model


def other_digits(found: digits.Digits, random: np.random.Generator) -> Iterator[tuple[Images, Labels]]:
    """Digits that are not as MNIST's authors made them, by kind: read again from paper, drawn, printed."""
    some = random.permutation(len(found.images))[:4_000]
    for part, change in zip(np.array_split(some, len(robustness.CHANGES)), robustness.CHANGES.values(), strict=True):
        read = robustness.changed(change, found.images[part], found.labels[part])
        seen = read.labels != robustness.REFUSED
        yield read.images[seen, :, :, 0].round().astype(np.uint8), read.labels[seen]
    drawn = robustness.drawn(3_000, random)
    yield drawn.images[..., 0].round().astype(np.uint8), drawn.labels
    printed = robustness.printed()
    yield printed.images[..., 0].round().astype(np.uint8), printed.labels


def _epoch(
    found: digits.Digits,
    others: Sequence[tuple[Images, Labels]],
    pools: Sequence[tuple[Images, float]],
    random: np.random.Generator,
) -> tuple[npt.NDArray[np.float32], Labels]:
    """Images of digits and, as many, of none, in a random order; most of them distorted."""
    mnist = random.permutation(len(found.images))[:_EACH]
    parts: list[tuple[Images, Labels]] = [(found.images[mnist, ..., 0], found.labels[mnist])]
    for images, labels in others:
        rows = random.integers(0, len(images), min(2 * len(images), _EACH // 24))
        parts.append((images[rows], labels[rows]))
    for images, share in pools:
        rows = random.integers(0, len(images), round(share * _EACH))
        parts.append((images[rows], np.full(len(rows), _NONE)))
    images, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    order = random.permutation(len(images))
    return _distorted(images[order], random), labels[order]


def _distorted(images: Images, random: np.random.Generator) -> npt.NDArray[np.float32]:
    """The images [n, 28, 28, 1], each distorted or, some, as it is."""
    out = images[..., None].astype(np.float32)
    rows = np.flatnonzero(random.random(len(images)) > _PLAIN)
    for start in range(0, len(rows), 4_000):
        chosen = rows[start : start + 4_000]
        seed = tf.constant(random.integers(0, 2**31, 2, np.int32))
        made: Any = distorted(tf.constant(out[chosen]), Distortions(), seed, len(chosen), slice(None))
        out[chosen] = made.numpy()
    return out


def weights_of(model: keras.Model) -> dict[str, npt.NDArray[np.float32]]:
    """The detector's arrays: each normalisation folded into the convolution before it, rounded to 16 bits."""
    weights: dict[str, npt.NDArray[Any]] = {}
    for name in ("first", "second", "third"):
        (kernel,) = model.get_layer(name).get_weights()
        layer = model.get_layer(f"{name}_normalised")
        scale, shift, mean, variance = layer.get_weights()
        factor = scale / np.sqrt(variance + layer.epsilon)
        weights |= {f"{name}_kernel": kernel * factor, f"{name}_bias": shift - mean * factor}
    for name in ("dense", "answers"):
        weights |= dict(zip((f"{name}_kernel", f"{name}_bias"), model.get_layer(name).get_weights(), strict=True))
    return {name: weights[name].astype(np.float16).astype(np.float32) for name in names()}
