"""Rules for the operators that move, pick and join elements (see `rules`)."""

from collections.abc import Sequence

from worker.graphs.arithmetic import constant_of_shape, filled, numbered, numbers_of, of_numbers, shape, size, sizes_of
from worker.graphs.onnx_graph import MAX_NUMBERS, Node
from worker.graphs.rules import (
    Args,
    CannotTell,
    Mixes,
    Rule,
    axes_of,
    broadcast,
    data,
    like,
    normal,
    only_fixed,
    shape_of,
)
from worker.graphs.values import ONE, Size, Value, by_row, fixed, product, unknown_size


def transpose(node: Node, args: Args) -> list[Value]:
    """Axes in another order."""
    value = data(args)
    sizes = shape_of(value)
    order = node.attributes.get("perm") or tuple(reversed(range(len(sizes))))
    if sorted(order) != list(range(len(sizes))):
        raise CannotTell
    return [like(value, [sizes[axis] for axis in order], order.index(value.axis) if value.is_by_row else None)]


def reshape(node: Node, args: Args) -> list[Value]:
    """The same elements in the same order, along other axes."""
    value = data(args)
    target = node.attributes.get("shape")
    numbers = [Size(number) for number in target] if target is not None else numbers_of(data(args, 1))
    if not value.is_by_row and any(number is not None and number.counts_rows for number in numbers):
        raise Mixes("shapes a constant by how many rows there are")
    if not value.is_by_row and value.shape is None:
        return [like(value, None)]
    return [reshaped(value, _target(shape_of(value), sizes_of(numbers), node))]


def _target(old: Sequence[Size], numbers: Sequence[Size], node: Node) -> list[Size]:
    """The new sizes; 0 stands for the old one at that place, -1 for what is left."""
    new = []
    for place, number in enumerate(numbers):
        if number == Size(0) and not node.attributes.get("allowzero"):
            if place >= len(old):
                raise CannotTell
            number = old[place]
        new.append(number)
    if Size(-1) in new:
        at = new.index(Size(-1))
        left = product(old).over(product(new[:at] + new[at + 1 :]))
        if left is None or not left.factor:
            raise CannotTell
        new[at] = left
    return new


def reshaped(value: Value, new: Sequence[Size]) -> Value:
    """The value with these sizes. Rows stay apart where as much lies before them as did, and they lie in one axis."""
    old = shape_of(value)
    if not value.is_by_row:
        return like(value, new) if value.numbers is None else of_numbers([value], new, value.numbers)
    before = product(old[: value.axis])
    for axis, found in enumerate(new):
        if found.counts_rows:
            if product(new[:axis]) != before or product(new) != product(old):
                raise CannotTell
            return by_row(axis, new)
    raise CannotTell


def flatten(node: Node, args: Args) -> list[Value]:
    """Two axes: those before one, and the others."""
    value = data(args)
    sizes = shape_of(value)
    axis = node.attributes.get("axis", 1)
    axis += len(sizes) if axis < 0 else 0
    return [reshaped(value, [product(sizes[:axis]), product(sizes[axis:])])]


def squeeze(node: Node, args: Args) -> list[Value]:
    """Without axes of size 1."""
    value = data(args)
    sizes = shape_of(value)
    axes = axes_of(node, args, len(sizes))
    if axes is None:
        if value.is_by_row or any(found.names for found in sizes):
            raise Mixes("drops whichever axes have size 1, the rows' own among them where there is one row")
        axes = [axis for axis, found in enumerate(sizes) if found == ONE]
    if value.is_by_row and value.axis in axes:
        raise Mixes("drops the axis that counts rows")
    left = [axis for axis in range(len(sizes)) if axis not in axes]
    if value.numbers is not None:
        return [of_numbers([value], [sizes[axis] for axis in left], value.numbers)]
    return [like(value, [sizes[axis] for axis in left], left.index(value.axis) if value.is_by_row else None)]


def unsqueeze(node: Node, args: Args) -> list[Value]:
    """With more axes of size 1."""
    value = data(args)
    sizes = list(shape_of(value))
    given = node.attributes.get("axes")
    axes = list(given) if given is not None else data(args, 1).integers()
    if axes is None:
        raise CannotTell
    rank, rows = len(sizes) + len(axes), value.axis
    for axis in sorted(normal(axis, rank) for axis in axes):
        sizes.insert(axis, ONE)
        rows += axis <= rows
    if value.numbers is not None:
        return [of_numbers([value], sizes, value.numbers)]
    return [like(value, sizes, rows if value.is_by_row else None)]


def expand(node: Node, args: Args) -> list[Value]:
    """Axes of size 1 repeated."""
    value, target = data(args), sizes_of(numbers_of(data(args, 1)))
    if value.is_by_row or not any(found.counts_rows for found in target):
        return [broadcast([value, _shaped(value, target)])]
    repeated = filled(target)
    offset = len(target) - repeated.axis
    sizes = shape_of(value)
    if len(sizes) >= offset and sizes[-offset] != ONE:
        raise Mixes("gives each place among the rows a constant of its own")
    return [broadcast([value, repeated])]


def _shaped(value: Value, target: Sequence[Size]) -> Value:
    """A tensor of the target's shape, which may say again how many rows a value has."""
    rows = [axis for axis, found in enumerate(target) if found.counts_rows]
    return by_row(rows[0], target) if len(rows) == 1 and value.is_by_row else fixed(target)


def tile(node: Node, args: Args) -> list[Value]:
    """The whole tensor again and again along axes."""
    value = data(args)
    times, sizes = sizes_of(numbers_of(data(args, 1))), shape_of(value)
    if len(times) != len(sizes):
        raise CannotTell
    if value.is_by_row:
        if times[value.axis] != ONE or any(found.counts_rows for found in times):
            raise Mixes("repeats rows")
    elif any(found.counts_rows and size != ONE for found, size in zip(times, sizes, strict=True)):
        raise Mixes("repeats constants as often as there are rows")
    new = [old * found for old, found in zip(sizes, times, strict=True)]
    return [by_row(value.axis, new) if value.is_by_row else filled(new)]


def pad(node: Node, args: Args) -> list[Value]:
    """More elements before and behind, along axes."""
    value = data(args)
    sizes = list(shape_of(value))
    pads = node.attributes.get("pads") or data(args, 1).integers()
    only_fixed(args)
    if pads is None:
        raise CannotTell
    named = axes_of(node, args, len(sizes), 3) if len(args) > 3 else None
    axes = list(range(len(sizes))) if named is None else named
    for place, axis in enumerate(axes):
        if pads[place] or pads[place + len(axes)]:
            if value.is_by_row and axis == value.axis:
                raise Mixes("pads the axis that counts rows")
            sizes[axis] = unknown_size()
    return [like(value, sizes)]


def concat(node: Node, args: Args) -> list[Value]:
    """End to end along an axis."""
    values = [data(args, place) for place in range(len(args))]
    if all(not value.is_by_row for value in values):
        return [_joined_numbers(values)]
    first = next(value for value in values if value.is_by_row)
    axis = normal(node.attributes.get("axis", 0), first.rank)
    sizes = list(shape_of(first))
    for value in values:
        if value.kind == "counted":
            raise Mixes("depends on how many rows there are")
        if not value.is_by_row:
            raise Mixes("puts a constant of so many rows beside them")
        if axis == value.axis:
            raise Mixes("puts rows behind one another")
        if value.axis != first.axis or value.rank != first.rank or shape_of(value)[value.axis] != sizes[first.axis]:
            raise CannotTell
    lengths = [shape_of(value)[axis] for value in values]
    plain = all(not length.names for length in lengths)
    sizes[axis] = Size(sum(length.factor for length in lengths)) if plain else unknown_size()
    return [by_row(first.axis, sizes)]


def _joined_numbers(values: Sequence[Value]) -> Value:
    known = [number for value in values for number in (value.numbers or ())]
    if all(value.numbers is not None and value.shape is not None and value.rank == 1 for value in values):
        return of_numbers(values, [Size(len(known))], known) if len(known) <= MAX_NUMBERS else Value("counted")
    return Value("counted") if any(value.kind == "counted" for value in values) else fixed()


def split(node: Node, args: Args) -> list[Value]:
    """In parts along an axis."""
    value = data(args)
    sizes = list(shape_of(value))
    axis = normal(node.attributes.get("axis", 0), len(sizes))
    if value.is_by_row and axis == value.axis:
        raise Mixes("cuts the axis that counts rows")
    only_fixed(args)
    found = []
    parts = node.attributes.get("split") or (data(args, 1).integers() if len(args) > 1 and args[1] else None)
    for place in range(len(node.outputs)):
        part = list(sizes)
        part[axis] = Size(parts[place]) if parts and place < len(parts) else unknown_size()
        found.append(like(value, part))
    return found


def slicing(node: Node, args: Args) -> list[Value]:
    """Places along axes, from and to."""
    value = data(args)
    sizes = list(shape_of(value))
    starts, ends, axes, steps = _slice_numbers(node, args)
    if axes is None:
        axes = list(range(len(starts or ()))) if starts else None
    if axes is None:
        raise CannotTell
    axes = [normal(axis, len(sizes)) for axis in axes]
    for place, axis in enumerate(axes):
        start, end = (found[place] if found else None for found in (starts, ends))
        step = steps[place] if steps else 1
        is_all = start == 0 and step == 1 and end is not None and end >= 2**31 - 1
        if is_all:
            continue
        if value.is_by_row and axis == value.axis:
            raise Mixes("picks rows by their place")
        if value.numbers is not None and len(sizes) == 1 and starts and ends:
            picked = list(value.numbers)[slice(start, end, step)]
            return [of_numbers([value], [Size(len(picked))], picked)]
        sizes[axis] = unknown_size()
    return [like(value, sizes)]


def _slice_numbers(node: Node, args: Args) -> list[list[int] | None]:
    if "starts" in node.attributes:
        found = [node.attributes.get(name) for name in ("starts", "ends", "axes")]
        return [*(None if numbers is None else list(numbers) for numbers in found), None]
    for place in range(1, len(args)):
        given = args[place]
        if given is not None and given.kind != "fixed":
            raise Mixes("cuts by what rows say, or by how many there are")
    return [
        given.integers() if place < len(args) and (given := args[place]) is not None else None for place in range(1, 5)
    ]


def gather(node: Node, args: Args) -> list[Value]:
    """Places along one axis, by number."""
    value, places = data(args), data(args, 1)
    if value.numbers is not None and not places.is_by_row and value.shape is not None and value.rank == 1:
        return [_picked(value, places)]
    sizes = shape_of(value)
    axis = normal(node.attributes.get("axis", 0), len(sizes))
    inner = shape_of(places)
    new = [*sizes[:axis], *inner, *sizes[axis + 1 :]]
    if "counted" in (value.kind, places.kind):
        raise Mixes("depends on how many rows there are")
    if places.is_by_row:
        if value.is_by_row:
            raise Mixes("picks places of other rows")
        return [by_row(axis + places.axis, new)]
    if not value.is_by_row:
        return [fixed(new)]
    if axis == value.axis:
        raise Mixes("picks rows by their place")
    return [by_row(value.axis + (len(inner) - 1 if value.axis > axis else 0), new)]


def _picked(value: Value, places: Value) -> Value:
    numbers, at = list(value.numbers or ()), places.integers()
    if at is None or any(not -len(numbers) <= place < len(numbers) for place in at):
        return of_numbers([value, places], places.shape or (), [None] * len(places.numbers or (None,)))
    return of_numbers([value], shape_of(places), [numbers[place] for place in at])


def gather_elements(node: Node, args: Args) -> list[Value]:
    """Places along one axis, by numbers for each element."""
    value, places = data(args), data(args, 1)
    axis = normal(node.attributes.get("axis", 0), len(shape_of(value)))
    if "counted" in (value.kind, places.kind):
        raise Mixes("depends on how many rows there are")
    if value.is_by_row and places.is_by_row and value.axis == places.axis != axis:
        return [places]
    if value.is_by_row or places.is_by_row:
        if axis == value.axis and value.is_by_row:
            raise Mixes("picks places of other rows")
        raise CannotTell
    return [fixed(places.shape)]


def gather_nd(node: Node, args: Args) -> list[Value]:
    """Places by several numbers each."""
    value, places = data(args), data(args, 1)
    if "counted" in (value.kind, places.kind):
        raise Mixes("depends on how many rows there are")
    if not value.is_by_row and not places.is_by_row:
        return [fixed()]
    batch = node.attributes.get("batch_dims", 0)
    if value.is_by_row and places.is_by_row and value.axis == places.axis < batch:
        return [by_row(places.axis, [*shape_of(places)[:-1], *_rest(value, places, batch)])]
    if value.kind == "fixed" and places.axis < places.rank - 1:
        return [by_row(places.axis, [*shape_of(places)[:-1], *_rest(value, places, batch)])]
    raise Mixes("picks places of other rows")


def _rest(value: Value, places: Value, batch: int) -> Sequence[Size]:
    last = shape_of(places)[-1]
    if last.names:
        raise CannotTell
    return shape_of(value)[batch + last.factor :]


def one_hot(node: Node, args: Args) -> list[Value]:
    """A new axis with one place set."""
    places = data(args)
    only_fixed(args)
    sizes = list(shape_of(places))
    axis = normal(node.attributes.get("axis", -1), len(sizes) + 1)
    depth = data(args, 1).integers()
    sizes.insert(axis, Size(depth[0]) if depth else unknown_size())
    return [like(places, sizes, places.axis + (axis <= places.axis) if places.is_by_row else None)]


def resize(node: Node, args: Args) -> list[Value]:
    """Images of another size: nothing may be interpolated between rows."""
    value = data(args)
    sizes = list(shape_of(value))
    if not value.is_by_row:
        only_fixed(args, 0)
        return [fixed()]
    for place, is_scale in ((2, True), (3, False)) if len(args) > 2 else ((1, True),):
        given = args[place] if place < len(args) else None
        if given is None or given.shape == (Size(0),):
            continue
        numbers = numbers_of(given)
        wanted = ONE if is_scale else sizes[value.axis]
        if len(numbers) != len(sizes) or numbers[value.axis] != wanted:
            raise CannotTell
        return [by_row(value.axis, [old if axis == value.axis else unknown_size() for axis, old in enumerate(sizes)])]
    raise CannotTell


def triangle(node: Node, args: Args) -> list[Value]:
    """A part of each matrix."""
    value = data(args)
    only_fixed(args)
    if value.is_by_row and value.axis >= value.rank - 2:
        raise Mixes("treats rows by their place")
    return [value]


def reverse_sequence(node: Node, args: Args) -> list[Value]:
    """Each sequence backwards, as far as it is long."""
    value, lengths = data(args), data(args, 1)
    time, batch = node.attributes.get("time_axis", 0), node.attributes.get("batch_axis", 1)
    if not value.is_by_row or time == value.axis:
        raise Mixes("puts rows in another order")
    if batch != value.axis or not lengths.is_by_row:
        raise CannotTell
    return [value]


SHAPING: dict[str, Rule] = {
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "Pad": pad,
    "Range": numbered,
    "Reshape": reshape,
    "Resize": resize,
    "ReverseSequence": reverse_sequence,
    "Shape": shape,
    "Size": size,
    "Slice": slicing,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": triangle,
    "Unsqueeze": unsqueeze,
    "Upsample": resize,
}
