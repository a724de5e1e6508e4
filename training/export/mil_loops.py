"""Loops of ONNX in MIL: recurrent layers that are no operator of their own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from coremltools.converters.mil import Builder as mb  # noqa: N813 - its own name everywhere
from coremltools.converters.mil.mil import types

from training.export.mil import NotInMil, Value, is_of, known_shape

Through = Callable[[onnx.GraphProto, Mapping[str, Value]], list[Value]]


def loop(body: onnx.GraphProto, inputs: Sequence[Value], through: Through, anchor: Value) -> tuple[Value, ...]:
    """A loop's last values, and for each of its other outputs the values of all rounds, one after the other.

    `through` translates the body for values of its inputs. A list of the rounds' values has as many places as there are
    rounds at the most. MIL takes no constant for what changes from round to round, so what begins as one is tied to
    `anchor`, a variable of the program's.
    """
    rounds, condition, carried = inputs[0], inputs[1], list(inputs[2:])
    listed = len(body.output) - 1 - len(carried)
    true = _true(anchor)
    carried = [_tied(value, true) for value in carried]
    start = [_tied(np.array(0, np.int32), true), _flag(condition, true), *carried]
    if listed:
        if rounds is None:
            raise NotInMil("its number of rounds is not known before it ends")
        start += _lists(body, start[:2], carried, rounds, through)
    values = [value.name for value in body.input]

    def goes_on(count: Value, condition: Value, *rest: Value) -> Value:
        if rounds is None:
            return mb.identity(x=condition)
        return mb.logical_and(x=condition, y=mb.less(x=count, y=_scalar(rounds)))

    def once(count: Value, condition: Value, *rest: Value) -> list[Value]:
        now, lists = rest[: len(carried)], rest[len(carried) :]
        given = dict(zip(values, (count, condition, *now), strict=True))
        after, *found = through(body, given)
        later = [_like(value, before) for value, before in zip(found, now, strict=False)]
        written = [_written(into, count, value) for into, value in zip(lists, found[len(carried) :], strict=True)]
        return [mb.add(x=count, y=np.int32(1)), _flag(after, true), *later, *written]

    _, _, *last = mb.while_loop(_cond=goes_on, _body=once, loop_vars=tuple(start))
    return tuple(last)


def _true(anchor: Value) -> Value:
    """True, but not known to be while converting, whatever numbers the anchor holds."""
    nothing = mb.mul(x=mb.cast(x=anchor, dtype="fp32"), y=np.float32(0))
    total = mb.reduce_sum(x=nothing, axes=list(range(anchor.rank)), keep_dims=False) if anchor.rank else nothing
    return mb.logical_not(x=mb.less(x=total, y=np.float32(-1)))


def _tied(value: Value, true: Value) -> Value:
    """The value as a variable that is no constant."""
    if not isinstance(value, np.ndarray) and value.val is None:
        return value
    if is_of(value, types.bool):
        return mb.logical_and(x=value, y=true)
    kind = "int32" if is_of(value, types.int32) else "fp32"
    return mb.mul(x=value, y=mb.cast(x=true, dtype=kind))


def _flag(value: Value, true: Value) -> Value:
    """A condition as a scalar that is no constant."""
    value = np.array(True) if value is None else value
    return _tied(value.reshape(()) if isinstance(value, np.ndarray) else value, true)


def _scalar(value: Value) -> Value:
    return value.reshape(()) if isinstance(value, np.ndarray) else value


def _like(value: Value, before: Value) -> Value:
    """The value in the form of the one before: sizes that are not known get another name in each round."""
    value = mb.identity(x=value) if isinstance(value, np.ndarray) else value
    if known_shape(value) == known_shape(before) and tuple(value.shape) != tuple(before.shape):
        return mb.reshape(x=value, shape=mb.shape(x=before))
    return value


def _lists(
    body: onnx.GraphProto, first: Sequence[Value], carried: Sequence[Value], rounds: Value, through: Through
) -> list[Value]:
    """Empty lists in the form of what the first round gives."""
    given = dict(zip((value.name for value in body.input), (*first, *carried), strict=True))
    found = through(body, given)[1 + len(carried) :]
    count = mb.expand_dims(x=_scalar(rounds), axes=[0])
    return [mb.fill(shape=mb.concat(values=[count, mb.shape(x=value)], axis=0), value=_zero(value)) for value in found]


def _zero(value: Value) -> Any:
    return np.int32(0) if is_of(value, types.int32) else np.float32(0)


def _written(into: Value, place: Value, value: Value) -> Value:
    index = mb.expand_dims(x=place, axes=[0])
    found = mb.scatter(data=into, indices=index, updates=mb.expand_dims(x=value, axes=[0]), axis=0, mode="update")
    return _like(found, into)
