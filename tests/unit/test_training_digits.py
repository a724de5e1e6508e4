"""Distortions and distillation: what an image becomes, and what a student's loss is."""

from typing import Any

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")
from millrace.artifacts.detector import Detector  # noqa: E402 - after the skip where TensorFlow is not installed
from training import detector, distill, nondigits  # noqa: E402
from training.augmentation import Distortions, distorted  # noqa: E402

STILL = Distortions(rotation=0.0, scale=0.0, shear=0.0, shift=0.0, bend=0.0, coarse=0.0)
ALL = slice(None)


def _images(count: int) -> Any:
    images = np.zeros((count, 28, 28, 1), np.uint8)
    images[:, 6:22, 10:18] = 200
    return images


def _distorted(images: Any, by: Distortions, seed: int = 1, batch: int | None = None, share: slice = ALL) -> Any:
    return distorted(images, by, tf.constant([seed, 2]), batch or len(images), share).numpy()


def test_distortions_depend_on_the_seed_alone() -> None:
    images = _images(8)

    first = _distorted(images, Distortions())

    np.testing.assert_array_equal(_distorted(images, Distortions()), first)
    assert not np.array_equal(_distorted(images, Distortions(), seed=3), first)
    assert not np.array_equal(first[0], first[1])


def test_a_share_of_a_batch_is_distorted_as_in_the_whole_batch() -> None:
    images = _images(8)

    whole = _distorted(images, Distortions())

    for share in (slice(0, 8, 2), slice(1, 8, 2)):
        np.testing.assert_allclose(
            _distorted(images[share], Distortions(), batch=8, share=share), whole[share], atol=1e-3
        )


def test_without_distortions_only_the_thickness_changes() -> None:
    images = _images(64)

    found = _distorted(images, STILL)

    is_same = np.abs(found - images).max(axis=(1, 2, 3)) < 0.1
    assert 16 < is_same.sum() < 48  # about half
    ink = found.sum(axis=(1, 2, 3))
    assert (ink > images[0].sum() + 1).any()
    assert (ink < images[0].sum() - 1).any()
    assert not found[:, :5].any()


@pytest.mark.parametrize("name", ["rotation", "scale", "shear", "shift", "bend", "coarse"])
def test_every_distortion_changes_images_within_their_range(name: str) -> None:
    import dataclasses

    images = _images(16)
    amount = 1.0 if name == "coarse" else getattr(Distortions(), name)

    found = _distorted(images, dataclasses.replace(STILL, **{name: amount}))

    assert np.abs(found - _distorted(images, STILL)).max() > 20
    assert found.min() >= -1e-3
    assert found.max() <= 201


def test_a_student_that_answers_as_its_teacher_has_no_distillation_loss() -> None:
    taught = tf.constant([[0.7, 0.2, 0.1], [0.01, 0.01, 0.98]])

    found = distill.loss(temperature=4.0, alpha=1.0)((tf.constant([0, 2]), taught), taught)

    np.testing.assert_allclose(found, 0, atol=1e-5)


def test_without_alpha_the_loss_is_the_cross_entropy_of_the_labels() -> None:
    answers = tf.constant([[0.7, 0.2, 0.1], [0.01, 0.01, 0.98]])

    found = distill.loss(temperature=4.0, alpha=0.0)((tf.constant([0, 1]), answers), answers)

    np.testing.assert_allclose(found, [-np.log(0.7), -np.log(0.01)], rtol=1e-5)


def test_temperature_softens_as_dividing_the_logits_does() -> None:
    logits = np.array([[3.0, -1.0, 0.5]], np.float32)

    found = distill.softened(tf.nn.softmax(logits), 2.5)

    np.testing.assert_allclose(found, tf.nn.softmax(logits / 2.5), atol=1e-6)


def test_the_gradient_of_the_soft_part_stays_as_large_at_any_temperature() -> None:
    taught, logits = tf.constant([[0.6, 0.3, 0.1]]), tf.constant([[0.2, 0.1, -0.1]])

    def gradient(temperature: float) -> float:
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = distill.loss(temperature, alpha=1.0)((tf.constant([0]), taught), tf.nn.softmax(logits))
        return float(tf.norm(tape.gradient(value, logits)))

    assert gradient(20.0) == pytest.approx(gradient(40.0), rel=0.1)
    assert 0.3 < gradient(20.0) / gradient(1.0) < 3


def test_the_detector_computes_what_the_trained_network_does() -> None:
    images = _images(3) + np.random.default_rng(0).integers(0, 50, (3, 28, 28, 1), np.uint8)
    model = detector.build()
    for layer in model.layers:  # as after training
        layer.set_weights(
            [weights + 0.05 * np.float32(layer.name == "first_normalised") for weights in layer.get_weights()]
        )

    logits = model.predict(images.astype(np.float32), verbose=0)

    found = Detector(detector.weights_of(model), 0.0)
    expected = np.log(np.exp(logits[:, :10]).sum(axis=1)) - logits[:, 10]
    np.testing.assert_allclose([found.evidence(image.astype(np.float32)) for image in images], expected, atol=0.02)


def test_what_shows_no_digit_is_made_in_the_form_of_mnist() -> None:
    random = np.random.default_rng(0)
    digits = random.integers(0, 255, (40, 28, 28), np.uint8)

    made = [*nondigits.turned(digits, np.arange(40) % 10), nondigits.joined(digits, random)]
    made += [nondigits.scribble(random) for _ in range(30)] + [nondigits.noise(random) for _ in range(20)]

    assert all(image.ndim == 2 and image.max() > 0 for image in made)
    letters = nondigits.glyphs(["DejaVuSans", "cmr10"], ["A", "O", "W", "\u0416"])
    assert letters.shape == (5, 28, 28)  # no O, and Computer Modern has no Cyrillic
