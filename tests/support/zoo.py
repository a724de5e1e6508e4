"""A zoo of small Keras models of the kinds that people have: what an export is counted on.

Each is made by a function of no arguments in `ZOO`, by its name. Importing this module imports TensorFlow.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import layers as L  # noqa: N812 - one letter, since this file is nothing but layers
from keras import ops

ZOO: dict[str, Callable[[], keras.Model]] = {}
_WORDS = ["red", "green", "blue"]


def zoo(make: Callable[[], keras.Model]) -> Callable[[], keras.Model]:
    """Add a model to the zoo, under its function's name."""
    ZOO[make.__name__] = make
    return make


def made(name: str) -> keras.Model:
    """The model of that name, the same in every process, its weights no longer what they begin as."""
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy("float32")
    try:
        model = ZOO[name]()
    finally:
        keras.config.set_dtype_policy("float32")
    random = np.random.default_rng(2)
    for weight in model.trainable_weights:
        weight.assign(weight.numpy() + 0.1 * random.uniform(0, 1, weight.shape))
    return model


def rows(model: keras.Model, count: int) -> list[npt.NDArray[Any]]:
    """Trial inputs in the order of the model's own; sizes that are free are 16, fixed first ones stay."""
    random = np.random.default_rng(3)
    found = []
    for tensor in model.inputs:
        shape = [16 if size is None else size for size in tensor.shape]
        if tensor.shape[0] is None:
            shape[0] = count
        found.append(_drawn(random, shape, tensor.dtype))
    return found


def _drawn(random: np.random.Generator, shape: list[int], dtype: str) -> npt.NDArray[Any]:
    if dtype == "string":
        return np.resize(np.array([*_WORDS, "pink"], object), shape)
    if dtype == "bool":
        return random.integers(0, 2, shape).astype(bool)
    if "int" in dtype:
        return random.integers(0, 256 if dtype == "uint8" else 8, shape).astype(dtype)
    return random.normal(size=shape).astype(dtype)


def _of(*shape: int | None, dtype: str = "float32") -> Any:
    return keras.Input(shape, dtype=dtype, name="x")


def _ids(length: int | None = 8) -> Any:
    return keras.Input((length,), dtype="int32", name="ids")


def _adapted(layer: Any, data: Any) -> Any:
    layer.adapt(data)
    return layer


_RNG = np.random.default_rng(0)

# Tables of numbers


@zoo
def mlp() -> keras.Model:
    return keras.Sequential([keras.Input((6,)), L.Dense(8, "relu"), L.Dropout(0.2), L.Dense(3, "softmax")])


@zoo
def adapted_normalization() -> keras.Model:
    x = _of(3)
    return keras.Model(x, L.Dense(2)(_adapted(L.Normalization(), _RNG.normal(50, 9, (100, 3)))(x)))


@zoo
def inverse_normalization() -> keras.Model:
    x = _of(3)
    return keras.Model(x, L.Normalization(mean=3.0, variance=4.0, invert=True)(L.Dense(3)(x)))


@zoo
def wide_and_deep() -> keras.Model:
    a, b = keras.Input((4,), name="wide"), keras.Input((6,), name="deep")
    return keras.Model([a, b], L.Dense(1)(L.Concatenate()([a, L.Dense(8, "relu")(b)])))


@zoo
def many_heads() -> keras.Model:
    x = _of(4)
    return keras.Model(x, {"kind": L.Dense(3, "softmax")(x), "price": L.Dense(1)(x)})


@zoo
def batch_normalized() -> keras.Model:
    x = _of(6)
    return keras.Model(x, L.Dense(2)(L.Activation("relu")(L.BatchNormalization()(L.Dense(8)(x)))))


@zoo
def rescaled() -> keras.Model:
    x = _of(3)
    return keras.Model(x, L.Rescaling(1000.0, 5000.0)(L.Dense(1)(x)))


@zoo
def unit_normalized() -> keras.Model:
    x = _of(6)
    return keras.Model(x, L.UnitNormalization()(L.Dense(4)(x)))


@zoo
def discretized() -> keras.Model:
    x = _of(3)
    h = L.Discretization(bin_boundaries=[-1.0, 0.0, 1.0])(x)
    return keras.Model(x, L.Dense(2)(L.Flatten()(L.Embedding(4, 3)(h))))


@zoo
def category_encoded() -> keras.Model:
    x = _of(1, dtype="int32")
    return keras.Model(x, L.Dense(2)(L.CategoryEncoding(8, output_mode="one_hot")(x)))


@zoo
def multi_hot() -> keras.Model:
    x = _of(5, dtype="int32")
    return keras.Model(x, L.Dense(2)(L.CategoryEncoding(8, output_mode="multi_hot")(x)))


@zoo
def hashed() -> keras.Model:
    x = _of(2, dtype="int32")
    return keras.Model(x, L.Dense(2)(ops.cast(L.Hashing(num_bins=8)(x), "float32")))


@zoo
def integer_lookup() -> keras.Model:
    x = _of(3, dtype="int64")
    return keras.Model(x, L.Dense(2)(L.Flatten()(L.Embedding(6, 3)(L.IntegerLookup(vocabulary=[3, 1, 4, 2])(x)))))


@zoo
def string_lookup() -> keras.Model:
    x = _of(3, dtype="string")
    return keras.Model(x, L.Dense(2)(L.Flatten()(L.Embedding(5, 3)(L.StringLookup(vocabulary=_WORDS)(x)))))


@zoo
def string_one_hot() -> keras.Model:
    x = _of(1, dtype="string")
    return keras.Model(x, L.Dense(2)(L.StringLookup(vocabulary=_WORDS, output_mode="one_hot")(x)))


@zoo
def mixed_columns() -> keras.Model:
    colour, size = keras.Input((1,), dtype="string", name="colour"), keras.Input((1,), name="size")
    h = L.Flatten()(L.Embedding(5, 3)(L.StringLookup(vocabulary=_WORDS)(colour)))
    n = _adapted(L.Normalization(axis=None), _RNG.normal(5, 2, (50,)))(size)
    return keras.Model([colour, size], L.Dense(1)(L.Concatenate()([h, n])))


@zoo
def large_captured_constant() -> keras.Model:
    x = _of(20)
    table = np.asarray(_RNG.normal(size=(20, 30)), "float32")
    return keras.Model(x, L.Dense(2)(ops.matmul(x, ops.convert_to_tensor(table))))


@zoo
def multiplied_features() -> keras.Model:
    x = _of(5)
    h = L.Multiply()([L.Dense(5, "sigmoid")(x), x])
    return keras.Model(x, L.Dense(1)(L.Average()([h, L.Maximum()([h, x]), L.Minimum()([h, x])])))


@zoo
def residual_mlp() -> keras.Model:
    x = _of(6)
    return keras.Model(x, L.Dense(1)(L.LayerNormalization()(L.Add()([x, L.Dense(6, "swish")(x)]))))


@zoo
def cosine_towers() -> keras.Model:
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    return keras.Model([a, b], L.Dot(axes=1, normalize=True)([L.Dense(6)(a), L.Dense(6)(b)]))


@zoo
def factorization() -> keras.Model:
    a, b = keras.Input((1,), dtype="int32", name="user"), keras.Input((1,), dtype="int32", name="item")
    users, items = L.Flatten()(L.Embedding(8, 4)(a)), L.Flatten()(L.Embedding(8, 4)(b))
    return keras.Model([a, b], L.Dot(axes=1)([users, items]))


@zoo
def einsum_dense() -> keras.Model:
    x = _of(4, 6)
    return keras.Model(x, L.EinsumDense("abc,cd->abd", output_shape=(None, 5), bias_axes="d")(x))


@zoo
def int64_inputs() -> keras.Model:
    x = _of(4, dtype="int64")
    return keras.Model(x, L.Dense(2)(L.Flatten()(L.Embedding(8, 3)(x))))


@zoo
def bool_inputs() -> keras.Model:
    x = _of(4, dtype="bool")
    return keras.Model(x, L.Dense(2)(ops.cast(x, "float32")))


@zoo
def float64() -> keras.Model:
    keras.config.set_dtype_policy("float64")
    x = _of(4, dtype="float64")
    return keras.Model(x, L.Dense(2)(L.Dense(5, "relu")(x)))


@zoo
def mixed_float16_mlp() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    x = _of(4)
    return keras.Model(x, L.Dense(2, "softmax", dtype="float32")(L.Dense(5, "relu")(x)))


@zoo
def mixed_bfloat16_mlp() -> keras.Model:
    keras.config.set_dtype_policy("mixed_bfloat16")
    x = _of(4)
    return keras.Model(x, L.Dense(2, dtype="float32")(L.Dense(5, "relu")(x)))


@zoo
def argmax_of_scores() -> keras.Model:
    x = _of(4)
    return keras.Model(x, ops.argmax(L.Dense(5)(x), axis=-1))


@zoo
def top_two() -> keras.Model:
    x = _of(4)
    values, places = ops.top_k(L.Dense(6)(x), 2)
    return keras.Model(x, {"values": values, "places": places})


@zoo
def thresholded() -> keras.Model:
    x = _of(4)
    return keras.Model(x, ops.cast(L.Dense(3, "sigmoid")(x) > 0.5, "int32"))


@zoo
def logged() -> keras.Model:
    x = _of(4)
    return keras.Model(x, L.Dense(1)(ops.log1p(ops.abs(x))))


@zoo
def rounded() -> keras.Model:
    x = _of(4)
    return keras.Model(x, ops.round(L.Dense(3)(x) * 10))


@zoo
def cumulated() -> keras.Model:
    x = _of(6)
    return keras.Model(x, ops.cumsum(L.Dense(6, "softplus")(x), axis=-1))


@zoo
def clipped() -> keras.Model:
    x = _of(4)
    return keras.Model(x, ops.clip(L.Dense(3)(x), -0.5, 0.5))


@zoo
def where_nan() -> keras.Model:
    x = _of(4)
    return keras.Model(x, L.Dense(2)(ops.where(ops.isnan(x), ops.zeros_like(x), x)))


@zoo
def gaussian_noise() -> keras.Model:
    x = _of(4)
    return keras.Model(x, L.Dense(2)(L.AlphaDropout(0.1)(L.GaussianDropout(0.1)(L.GaussianNoise(0.1)(x)))))


@zoo
def mean_and_spread() -> keras.Model:
    x = _of(5, 4)
    return keras.Model(x, L.Concatenate()([ops.mean(x, 1), ops.std(x, 1), ops.max(x, 1)]))


@zoo
def sorted_values() -> keras.Model:
    x = _of(6)
    return keras.Model(x, ops.sort(L.Dense(6)(x), axis=-1))


@zoo
def maxout() -> keras.Model:
    x = _of(6)
    return keras.Model(x, L.Dense(1)(ops.max(L.Reshape((3, 4))(L.Dense(12)(x)), -1)))


@zoo
def log_softmax() -> keras.Model:
    x = _of(6)
    return keras.Model(x, L.Dense(4, "log_softmax")(x))


@zoo
def fourier_features() -> keras.Model:
    x = _of(3)
    h = L.Dense(8, use_bias=False)(x)
    return keras.Model(x, L.Dense(1)(L.Concatenate()([ops.sin(h), ops.cos(h)])))


@zoo
def variational() -> keras.Model:
    x = _of(6)
    mean, spread = L.Dense(2)(x), L.Dense(2)(x)
    return keras.Model(x, L.Dense(6)(mean + ops.exp(0.5 * spread) * 0.1))


# Activations


def _activated(name: str) -> Callable[[], keras.Model]:
    def make() -> keras.Model:
        x = _of(5)
        return keras.Model(x, L.Dense(2)(L.Dense(8, activation=name)(x)))

    return make


for _name in (
    "gelu",
    "elu",
    "selu",
    "softplus",
    "softsign",
    "swish",
    "hard_sigmoid",
    "hard_swish",
    "mish",
    "leaky_relu",
    "relu6",
    "tanh",
    "exponential",
    "log_sigmoid",
    "celu",
    "hard_tanh",
    "squareplus",
    "soft_shrink",
    "sparse_plus",
    "tanh_shrink",
    "hard_shrink",
    "sparsemax",
):
    ZOO[f"activation_{_name}"] = _activated(_name)


@zoo
def prelu() -> keras.Model:
    x = _of(8, 8, 3)
    return keras.Model(x, L.PReLU(shared_axes=[1, 2])(L.Conv2D(4, 3)(x)))


@zoo
def approximate_gelu() -> keras.Model:
    x = _of(5)
    return keras.Model(x, L.Dense(2)(ops.gelu(L.Dense(8)(x), approximate=True)))


# Images


@zoo
def small_cnn() -> keras.Model:
    return keras.Sequential(
        [keras.Input((16, 16, 1)), L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(), L.Flatten(), L.Dense(3)]
    )


@zoo
def mixed_float16_cnn() -> keras.Model:
    keras.config.set_dtype_policy("mixed_float16")
    x = _of(8, 8, 3)
    h = L.GlobalAveragePooling2D()(L.Conv2D(4, 3, activation="relu")(x))
    return keras.Model(x, L.Dense(2, dtype="float32")(h))


@zoo
def byte_pixels() -> keras.Model:
    x = _of(16, 16, 3, dtype="uint8")
    h = L.Rescaling(1 / 255.0)(ops.cast(x, "float32"))
    return keras.Model(x, L.Dense(4, activation="softmax")(L.Flatten()(L.Conv2D(4, 3)(h))))


@zoo
def resnet() -> keras.Model:
    x = _of(16, 16, 3)
    h = L.ReLU()(L.BatchNormalization()(L.Conv2D(6, 3, 2, padding="same", use_bias=False)(x)))
    k = L.BatchNormalization()(L.Conv2D(6, 3, padding="same")(h))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D()(L.ReLU()(L.Add()([h, k])))))


@zoo
def mobilenet() -> keras.Model:
    x = _of(16, 16, 3)
    h = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, 2, padding="same")(L.ZeroPadding2D(1)(x))))
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling2D(keepdims=True)(L.Conv2D(8, 1)(h))))


@zoo
def squeeze_excite() -> keras.Model:
    x = _of(8, 8, 4)
    h = L.Conv2D(8, 3, padding="same", activation="swish")(x)
    s = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(h))
    return keras.Model(x, L.Multiply()([h, L.Conv2D(8, 1, activation="sigmoid")(L.Conv2D(2, 1, activation="relu")(s))]))


@zoo
def efficientnet_start() -> keras.Model:
    x = _of(16, 16, 3)
    h = L.Rescaling(1 / 255.0)(x)
    h = _adapted(L.Normalization(axis=-1), _RNG.normal(0.5, 0.2, (4, 16, 16, 3)))(h)
    h = L.Rescaling([1.1, 1.2, 1.3])(h)
    return keras.Model(x, L.GlobalAveragePooling2D()(L.Conv2D(4, 3, 2, padding="same", activation="swish")(h)))


@zoo
def xception() -> keras.Model:
    x = _of(16, 16, 3)
    return keras.Model(x, L.GlobalMaxPooling2D()(L.SeparableConv2D(6, 3, activation="relu")(x)))


@zoo
def densenet() -> keras.Model:
    x = _of(8, 8, 3)
    h = L.Concatenate()([x, L.Conv2D(4, 3, padding="same", activation="relu")(x)])
    return keras.Model(x, L.AveragePooling2D(2)(h))


@zoo
def inception() -> keras.Model:
    x = _of(8, 8, 3)
    branches = [L.Conv2D(2, 1)(x), L.Conv2D(2, 3, padding="same")(x), L.AveragePooling2D(3, 1, "same")(x)]
    return keras.Model(x, L.Concatenate()([*branches, L.MaxPooling2D(3, 1, "same")(x)]))


@zoo
def dilated() -> keras.Model:
    x = _of(16, 16, 3)
    return keras.Model(x, L.Conv2D(4, 3, padding="same", dilation_rate=2)(x))


@zoo
def free_dilated() -> keras.Model:
    x = _of(None, None, 3)
    return keras.Model(x, L.Conv2D(4, 3, padding="same", dilation_rate=2)(x))


@zoo
def grouped() -> keras.Model:
    x = _of(8, 8, 4)
    return keras.Model(x, L.Conv2D(8, 3, groups=2)(x))


@zoo
def free_fully_convolutional() -> keras.Model:
    x = _of(None, None, 3)
    return keras.Model(x, L.GlobalAveragePooling2D()(L.Conv2D(4, 3, activation="relu")(x)))


@zoo
def free_unet() -> keras.Model:
    x = _of(None, None, 3)
    a = L.Conv2D(4, 3, padding="same")(x)
    b = L.Conv2D(4, 3, padding="same")(L.MaxPooling2D(8)(a))
    return keras.Model(x, L.Conv2D(2, 1)(L.Concatenate()([a, L.UpSampling2D(8)(b)])))


@zoo
def unet() -> keras.Model:
    x = _of(16, 16, 3)
    a = L.Conv2D(4, 3, padding="same", activation="relu")(x)
    b = L.Conv2D(8, 3, padding="same")(L.MaxPooling2D(2)(a))
    c = L.Concatenate()([a, L.Conv2DTranspose(4, 2, 2)(b)])
    return keras.Model(x, L.Conv2D(2, 1, activation="softmax")(c))


@zoo
def transposed() -> keras.Model:
    x = _of(8, 8, 4)
    return keras.Model(x, L.Conv2DTranspose(3, 3, 2, padding="same")(x))


@zoo
def free_transposed() -> keras.Model:
    x = _of(None, None, 4)
    return keras.Model(x, L.Conv2DTranspose(3, 3, 2, padding="same")(x))


@zoo
def transposed_valid() -> keras.Model:
    x = _of(6, 6, 4)
    return keras.Model(x, L.Conv2DTranspose(3, 3, 2, padding="valid")(x))


@zoo
def generator() -> keras.Model:
    x = _of(10)
    h = L.Reshape((4, 4, 8))(L.Dense(128)(x))
    return keras.Model(x, L.Conv2DTranspose(1, 4, 2, padding="same", activation="tanh")(L.LeakyReLU(0.2)(h)))


@zoo
def autoencoder() -> keras.Model:
    x = _of(8, 8, 1)
    h = L.Conv2D(4, 3, 2, padding="same", activation="relu")(x)
    return keras.Model(x, L.Conv2D(1, 3, padding="same", activation="sigmoid")(L.UpSampling2D(2)(h)))


@zoo
def bilinear() -> keras.Model:
    x = _of(8, 8, 3)
    return keras.Model(x, L.GlobalMaxPooling2D()(L.UpSampling2D(2, interpolation="bilinear")(x)))


@zoo
def free_bilinear() -> keras.Model:
    x = _of(None, None, 3)
    return keras.Model(x, L.UpSampling2D(2, interpolation="bilinear")(L.Conv2D(2, 3, padding="same")(x)))


@zoo
def resized_at_the_entrance() -> keras.Model:
    x = _of(None, None, 3)
    return keras.Model(x, L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(L.Resizing(8, 8)(x))))


@zoo
def resized_nearest() -> keras.Model:
    x = _of(10, 12, 3)
    return keras.Model(x, L.Resizing(8, 8, interpolation="nearest")(x))


@zoo
def deeplab() -> keras.Model:
    x = _of(16, 16, 3)
    h = L.Conv2D(4, 3, 2, padding="same")(x)
    pooled = L.UpSampling2D(8, interpolation="bilinear")(L.GlobalAveragePooling2D(keepdims=True)(h))
    return keras.Model(x, L.UpSampling2D(2, interpolation="bilinear")(L.Concatenate()([h, pooled])))


@zoo
def pyramid() -> keras.Model:
    x = _of(16, 16, 3)
    c1 = L.Conv2D(4, 3, 2, padding="same")(x)
    c2 = L.Conv2D(4, 3, 2, padding="same")(c1)
    p1 = L.Add()([L.UpSampling2D(2)(c2), L.Conv2D(4, 1)(c1)])
    return keras.Model(x, {"p1": p1, "p2": c2})


@zoo
def argmax_map() -> keras.Model:
    x = _of(8, 8, 4)
    return keras.Model(x, ops.argmax(L.Conv2D(5, 3, padding="same")(x), axis=-1))


@zoo
def pixel_shuffle() -> keras.Model:
    x = _of(8, 8, 4)
    h = ops.reshape(L.Conv2D(12, 3, padding="same")(x), (-1, 8, 8, 2, 2, 3))
    return keras.Model(x, ops.reshape(ops.transpose(h, (0, 1, 3, 2, 4, 5)), (-1, 16, 16, 3)))


@zoo
def patches() -> keras.Model:
    x = _of(16, 16, 3)
    return keras.Model(x, L.Dense(4)(L.Reshape((16, 48))(ops.image.extract_patches(x, 4))))


@zoo
def cropped() -> keras.Model:
    x = _of(10, 10, 3)
    return keras.Model(x, L.Conv2D(2, 3)(L.Cropping2D(((1, 2), (2, 1)))(x)))


@zoo
def centre_cropped() -> keras.Model:
    x = _of(10, 10, 3)
    return keras.Model(x, L.Conv2D(2, 3)(L.CenterCrop(8, 8)(x)))


@zoo
def reflected_padding() -> keras.Model:
    x = _of(8, 8, 3)
    return keras.Model(x, L.Conv2D(2, 3)(ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")))


@zoo
def augmented() -> keras.Model:
    x = _of(16, 16, 3)
    h = L.RandomContrast(0.2)(L.RandomZoom(0.1)(L.RandomRotation(0.1)(L.RandomFlip()(x))))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(h))))


@zoo
def group_normalized() -> keras.Model:
    x = _of(8, 8, 8)
    return keras.Model(x, L.GroupNormalization(4)(L.Conv2D(8, 3, padding="same")(x)))


@zoo
def instance_normalized() -> keras.Model:
    x = _of(8, 8, 4)
    return keras.Model(x, L.GroupNormalization(-1)(L.Conv2D(4, 3)(x)))


@zoo
def spectral_normalized() -> keras.Model:
    x = _of(8, 8, 3)
    return keras.Model(x, L.SpectralNormalization(L.Conv2D(4, 3))(x))


@zoo
def convnext() -> keras.Model:
    x = _of(8, 8, 4)
    h = L.LayerNormalization(epsilon=1e-6)(L.DepthwiseConv2D(7, padding="same")(x))
    return keras.Model(x, L.Add()([x, L.Dense(4)(L.Dense(16, activation="gelu")(h))]))


@zoo
def siamese() -> keras.Model:
    tower = keras.Sequential([keras.Input((8, 8, 1)), L.Conv2D(4, 3, activation="relu"), L.Flatten(), L.Dense(4)])
    a, b = keras.Input((8, 8, 1), name="a"), keras.Input((8, 8, 1), name="b")
    return keras.Model([a, b], ops.sqrt(ops.sum(ops.square(tower(a) - tower(b)), -1, keepdims=True) + 1e-6))


@zoo
def detector() -> keras.Model:
    x = _of(16, 16, 3)
    h = L.Reshape((16, 6))(L.Conv2D(6, 3, 4, padding="same")(x))
    grid = ops.stack(ops.meshgrid(ops.arange(4, dtype="float32"), ops.arange(4, dtype="float32")), -1)
    centres = ops.sigmoid(h[..., :2]) + ops.reshape(grid, (16, 2))
    return keras.Model(x, {"boxes": ops.concatenate([centres, ops.exp(h[..., 2:4])], -1), "scores": h[..., 4:]})


@zoo
def space_to_depth() -> keras.Model:
    import tensorflow as tf

    @keras.saving.register_keras_serializable("zoo")
    class SpaceToDepth(L.Layer):
        def call(self, x: Any) -> Any:
            return tf.nn.space_to_depth(x, 2)

    x = _of(8, 8, 3)
    return keras.Model(x, L.Conv2D(4, 3)(SpaceToDepth()(x)))


@zoo
def depth_to_space() -> keras.Model:
    import tensorflow as tf

    @keras.saving.register_keras_serializable("zoo")
    class DepthToSpace(L.Layer):
        def call(self, x: Any) -> Any:
            return tf.nn.depth_to_space(x, 2)

    x = _of(8, 8, 3)
    return keras.Model(x, DepthToSpace()(L.Conv2D(12, 3, padding="same")(x)))


@zoo
def convolution_3d() -> keras.Model:
    x = _of(6, 8, 8, 2)
    return keras.Model(x, L.GlobalAveragePooling3D()(L.MaxPooling3D(2)(L.Conv3D(4, 3, activation="relu")(x))))


@zoo
def channels_first_in() -> keras.Model:
    x = _of(3, 8, 8)
    return keras.Model(x, L.Dense(2)(L.Flatten()(L.Conv2D(4, 3)(L.Permute((2, 3, 1))(x)))))


@zoo
def greyscale() -> keras.Model:
    x = _of(8, 8, 3)
    return keras.Model(x, L.Conv2D(2, 3)(ops.image.rgb_to_grayscale(x)))


@zoo
def adaptive_pooling() -> keras.Model:
    x = _of(8, 8, 3)
    return keras.Model(x, L.AdaptiveAveragePooling2D(2)(x))


# Sequences


@zoo
def convolution_1d() -> keras.Model:
    x = _of(20, 3)
    return keras.Model(x, L.GlobalMaxPooling1D()(L.Conv1D(4, 5, activation="relu")(x)))


@zoo
def wavenet() -> keras.Model:
    x = _of(None, 3)
    h = L.Conv1D(4, 2, padding="causal", dilation_rate=2, activation="relu")(L.Conv1D(4, 2, padding="causal")(x))
    return keras.Model(x, L.Conv1D(2, 1)(h))


@zoo
def pooled_1d() -> keras.Model:
    x = _of(16, 3)
    return keras.Model(x, L.UpSampling1D(2)(L.AveragePooling1D(2)(L.ZeroPadding1D(1)(L.SeparableConv1D(4, 3)(x)))))


@zoo
def transposed_1d() -> keras.Model:
    x = _of(8, 3)
    return keras.Model(x, L.Conv1DTranspose(2, 3, 2)(x))


@zoo
def bag_of_words() -> keras.Model:
    x = _ids()
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(L.Embedding(50, 4)(x))))


@zoo
def masked_average() -> keras.Model:
    x = _ids(None)
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(L.Embedding(50, 4, mask_zero=True)(x))))


@zoo
def text_cnn() -> keras.Model:
    x = _ids(20)
    h = L.Embedding(50, 8)(x)
    return keras.Model(x, L.Concatenate()([L.GlobalMaxPooling1D()(L.Conv1D(3, k)(h)) for k in (2, 3, 4)]))


@zoo
def lstm() -> keras.Model:
    x = _of(10, 3)
    return keras.Model(x, L.Dense(2)(L.LSTM(4)(x)))


@zoo
def free_lstm() -> keras.Model:
    x = _of(None, 3)
    return keras.Model(x, L.LSTM(4, return_sequences=True)(x))


@zoo
def masked_lstm() -> keras.Model:
    x = _ids(None)
    return keras.Model(x, L.Dense(2)(L.LSTM(4)(L.Embedding(50, 4, mask_zero=True)(x))))


@zoo
def masked_lstm_sequences() -> keras.Model:
    x = _ids(8)
    return keras.Model(x, L.LSTM(4, return_sequences=True)(L.Embedding(50, 4, mask_zero=True)(x)))


@zoo
def bidirectional() -> keras.Model:
    x = _of(10, 3)
    return keras.Model(x, L.Dense(2)(L.Bidirectional(L.LSTM(4))(x)))


@zoo
def stacked_bidirectional() -> keras.Model:
    x = _of(10, 3)
    return keras.Model(x, L.Bidirectional(L.LSTM(4))(L.Bidirectional(L.LSTM(4, return_sequences=True))(x)))


@zoo
def masked_bidirectional() -> keras.Model:
    x = _ids(8)
    return keras.Model(x, L.Dense(2)(L.Bidirectional(L.LSTM(4))(L.Embedding(50, 4, mask_zero=True)(x))))


@zoo
def gru() -> keras.Model:
    x = _of(10, 3)
    return keras.Model(x, L.Dense(2)(L.GRU(4)(x)))


@zoo
def free_gru() -> keras.Model:
    x = _of(None, 3)
    return keras.Model(x, L.GRU(4, return_sequences=True)(x))


@zoo
def masked_gru() -> keras.Model:
    x = _ids(8)
    return keras.Model(x, L.Dense(2)(L.GRU(4)(L.Embedding(50, 4, mask_zero=True)(x))))


@zoo
def bidirectional_gru() -> keras.Model:
    x = _of(10, 3)
    return keras.Model(x, L.Dense(2)(L.Bidirectional(L.GRU(4))(x)))


@zoo
def old_gru() -> keras.Model:
    x = _of(10, 3)
    return keras.Model(x, L.GRU(4, reset_after=False)(x))


@zoo
def simple_rnn() -> keras.Model:
    x = _of(10, 3)
    return keras.Model(x, L.Dense(2)(L.SimpleRNN(4)(x)))


@zoo
def unrolled_lstm() -> keras.Model:
    x = _of(5, 3)
    return keras.Model(x, L.LSTM(4, unroll=True)(x))


@zoo
def relu_lstm() -> keras.Model:
    x = _of(10, 3)
    return keras.Model(x, L.LSTM(4, activation="relu")(x))


@zoo
def backwards_lstm() -> keras.Model:
    x = _of(10, 3)
    return keras.Model(x, L.LSTM(4, go_backwards=True, return_sequences=True)(x))


@zoo
def encoder_decoder() -> keras.Model:
    x = _of(6, 3)
    _, hidden, cell = L.LSTM(4, return_state=True)(x)
    h = L.LSTM(4, return_sequences=True)(L.RepeatVector(5)(hidden), initial_state=[hidden, cell])
    return keras.Model(x, L.TimeDistributed(L.Dense(2))(h))


@zoo
def convolutional_lstm() -> keras.Model:
    x = _of(4, 8, 8, 2)
    return keras.Model(x, L.ConvLSTM2D(3, 3)(x))


@zoo
def cnn_lstm() -> keras.Model:
    x = _of(10, 3)
    return keras.Model(x, L.Dense(1)(L.LSTM(4)(L.MaxPooling1D(2)(L.Conv1D(4, 3)(x)))))


@zoo
def video() -> keras.Model:
    x = _of(4, 8, 8, 3)
    h = L.TimeDistributed(L.Conv2D(3, 3, activation="relu"))(x)
    return keras.Model(x, L.LSTM(4)(L.TimeDistributed(L.GlobalAveragePooling2D())(h)))


@zoo
def masking_layer() -> keras.Model:
    x = _of(6, 3)
    return keras.Model(x, L.LSTM(4)(L.Masking(0.0)(x)))


@zoo
def stateful_lstm() -> keras.Model:
    x = keras.Input(batch_shape=(1, 5, 3), name="x")
    return keras.Model(x, L.LSTM(4, stateful=True)(x))


@zoo
def crnn() -> keras.Model:
    x = _of(8, 16, 1)
    h = L.MaxPooling2D(2)(L.Conv2D(4, 3, padding="same")(x))
    h = L.Reshape((8, 16))(L.Permute((2, 1, 3))(h))
    return keras.Model(x, L.Dense(5, "softmax")(L.Bidirectional(L.LSTM(4, return_sequences=True))(h)))


@zoo
def reversed_slice() -> keras.Model:
    x = _of(8, 6)
    return keras.Model(x, x[:, ::-1, ..., 1:4])


@zoo
def last_step() -> keras.Model:
    x = _of(None, 4)
    return keras.Model(x, L.Dense(2)(L.Conv1D(3, 2)(x)[:, -1, :]))


@zoo
def flipped() -> keras.Model:
    x = _of(8, 3)
    return keras.Model(x, L.Dense(2)(ops.flip(x, axis=1)))


@zoo
def rolled() -> keras.Model:
    x = _of(8, 3)
    return keras.Model(x, ops.roll(x, 2, axis=1) - x)


@zoo
def gathered() -> keras.Model:
    x, place = _of(8, 3), keras.Input((2,), dtype="int32", name="place")
    return keras.Model([x, place], ops.take_along_axis(x, ops.expand_dims(place, -1), axis=1))


# Attention


@zoo
def self_attention() -> keras.Model:
    x = _of(6, 8)
    return keras.Model(x, L.MultiHeadAttention(2, 4)(x, x))


@zoo
def causal_attention() -> keras.Model:
    x = _of(6, 8)
    return keras.Model(x, L.MultiHeadAttention(2, 4)(x, x, use_causal_mask=True))


@zoo
def grouped_attention() -> keras.Model:
    x = _of(6, 8)
    return keras.Model(x, L.GroupQueryAttention(4, 4, 2)(x, x))


@zoo
def plain_attention() -> keras.Model:
    x = _of(6, 8)
    return keras.Model(x, L.GlobalAveragePooling1D()(L.Attention()([x, x])))


@zoo
def additive_attention() -> keras.Model:
    x = _of(6, 8)
    return keras.Model(x, L.AdditiveAttention()([x, x]))


@zoo
def masked_transformer() -> keras.Model:
    x = _ids(8)
    h = L.Embedding(50, 8, mask_zero=True)(x)
    h = L.LayerNormalization()(h + L.MultiHeadAttention(2, 4)(h, h))
    return keras.Model(x, L.Dense(2)(L.GlobalAveragePooling1D()(h)))


@zoo
def captured_arange() -> keras.Model:
    x = _ids(8)
    return keras.Model(x, L.Dense(2)(L.Embedding(50, 4)(x) + L.Embedding(8, 4)(ops.arange(8))))


@zoo
def sinusoids() -> keras.Model:
    x = _of(40, 8)
    angles = np.arange(40)[:, None] / 10 ** (np.arange(8)[None] / 4)
    return keras.Model(x, L.Dense(2)(x + ops.convert_to_tensor(np.sin(angles).astype("float32"))))


@zoo
def bert() -> keras.Model:
    x = _ids(8)
    h = L.LayerNormalization()(L.Embedding(50, 8)(x) + L.Embedding(8, 8)(ops.arange(8)))
    h = L.LayerNormalization()(h + L.MultiHeadAttention(2, 4)(h, h))
    h = L.LayerNormalization()(h + L.Dense(8)(L.Dense(16, activation="gelu")(h)))
    return keras.Model(x, L.Dense(2, "softmax")(h[:, 0]))


@zoo
def free_gpt() -> keras.Model:
    x = _ids(None)
    h = L.Embedding(50, 8)(x)
    h = h + L.Embedding(64, 8)(ops.cumsum(ops.ones_like(x), axis=1) - 1)
    h = h + L.MultiHeadAttention(2, 4)(h, h, use_causal_mask=True)
    return keras.Model(x, L.Dense(50)(L.LayerNormalization(rms_scaling=False)(h)))


@zoo
def vision_transformer() -> keras.Model:
    x = _of(16, 16, 3)
    h = L.Reshape((16, 8))(L.Conv2D(8, 4, 4)(x))
    h = h + L.Embedding(16, 8)(ops.arange(16))
    h = h + L.MultiHeadAttention(2, 4)(L.LayerNormalization()(h), h)
    return keras.Model(x, L.Dense(3)(L.GlobalAveragePooling1D()(L.Dense(8, activation="gelu")(h))))


@zoo
def rms_normalized() -> keras.Model:
    x = _of(6, 8)
    return keras.Model(x, L.RMSNormalization()(L.Dense(8)(x)))


@zoo
def gated() -> keras.Model:
    x = _of(6, 8)
    a, b = ops.split(L.Dense(16)(x), 2, axis=-1)
    return keras.Model(x, L.Dense(8)(ops.silu(a) * b))


@zoo
def mixture_of_experts() -> keras.Model:
    x = _of(6)
    gate = L.Dense(3, "softmax")(x)
    experts = ops.stack([L.Dense(4, "relu")(x) for _ in range(3)], axis=1)
    return keras.Model(x, ops.sum(ops.expand_dims(gate, -1) * experts, axis=1))


@zoo
def graph_network() -> keras.Model:
    nodes, edges = keras.Input((5, 4), name="nodes"), keras.Input((5, 5), name="edges")
    h = L.Dense(6, "relu")(ops.matmul(edges, nodes))
    return keras.Model([nodes, edges], L.Dense(2)(ops.mean(ops.matmul(edges, h), axis=1)))


@zoo
def stacked_einsum() -> keras.Model:
    x = _of(4, 6)
    return keras.Model(x, ops.einsum("bij,bkj->bik", x, L.Dense(6)(x)))


@zoo
def spectrogram() -> keras.Model:
    x = _of(64)
    real, imaginary = ops.stft(x, 16, 8, 16)
    return keras.Model(x, L.Dense(2)(ops.sqrt(real**2 + imaginary**2 + 1e-6)))


@zoo
def text_vectorized() -> keras.Model:
    x = keras.Input((), dtype="string", name="x")
    layer = L.TextVectorization(vocabulary=_WORDS, output_sequence_length=4)
    return keras.Model(x, L.GlobalAveragePooling1D()(L.Embedding(5, 3)(layer(x))))


@zoo
def own_lookup_table() -> keras.Model:
    import tensorflow as tf

    @keras.saving.register_keras_serializable("zoo")
    class Lookup(L.Layer):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            rows = tf.lookup.KeyValueTensorInitializer(tf.constant([1, 2], tf.int64), tf.constant([0.5, 0.7]))
            self.own = tf.lookup.StaticHashTable(rows, default_value=-1.0)

        def call(self, x: Any) -> Any:
            return self.own.lookup(x)

        def compute_output_spec(self, x: Any) -> Any:
            return keras.KerasTensor(x.shape, "float32")

    x = _of(3, dtype="int64")
    return keras.Model(x, L.Dense(2)(Lookup()(x)))
