"""Whole numbers in graphs: the sizes of axes, and what is computed of them before something takes a shape.

"As many rows as there are, and 64 for each" is a tensor of two numbers before a Reshape. So the elements of small
tensors of whole numbers are followed (see `values`), by rules like the others.
"""

from collections.abc import Sequence

from worker.graphs.onnx_graph import MAX_NUMBERS, Node
from worker.graphs.rules import Args, CannotTell, Mixes, data, shape_of
from worker.graphs.values import ONE, ROWS, Size, Value, by_row, counted, fixed, product, unknown_size

ARITHMETIC = frozenset(
    ("Identity", "Cast", "Floor", "Ceil", "Round", "Mul", "Div", "Add", "Sub", "Neg", "Max", "Min", "Where", "Equal")
)
Numbers = Sequence[Size | None]
_MOST_OPERANDS = {"Where": 3}


def of_numbers(values: Sequence[Value], sizes: Sequence[Size], numbers: Numbers) -> Value:
    """The numbers that are computed of these values; one that is not known may grow with the batch where they do."""
    return (counted if any(value.kind == "counted" for value in values) else fixed)(sizes, numbers)


def numbers_of(value: Value) -> Numbers:
    """The elements, as far as they are known."""
    if value.is_by_row:
        raise CannotTell
    if value.numbers is None:
        if value.kind == "counted":
            raise Mixes("depends on how many rows there are")
        raise CannotTell
    return value.numbers


def shape(node: Node, args: Args) -> list[Value]:
    """The sizes of the axes."""
    sizes = shape_of(data(args))
    sizes = sizes[slice(node.attributes.get("start"), node.attributes.get("end"))]
    return [fixed([Size(len(sizes))], sizes)]


def size(node: Node, args: Args) -> list[Value]:
    """The number of elements."""
    return [fixed([], [product(shape_of(data(args)))])]


def arithmetic(node: Node, args: Args) -> Value | None:
    """The elements of a result computed of known numbers; None where they are not."""
    values = [data(args, place) for place in range(len(args))]
    if not values or any(value.numbers is None or value.shape is None or value.rank > 1 for value in values):
        return None
    columns = [value.numbers or () for value in values]
    count = max(map(len, columns))
    if any(len(column) not in (1, count) for column in columns):
        return None
    rows = zip(*(column if len(column) == count else column * count for column in columns), strict=True)
    return of_numbers(values, broadcast_shape(values), [_computed(node.operator, row) for row in rows])


def broadcast_shape(values: Sequence[Value]) -> tuple[Size, ...]:
    """The shape of the largest of small values."""
    return max((shape_of(value) for value in values), key=lambda found: (len(found), product(found).factor))


def _computed(operator: str, row: Sequence[Size | None]) -> Size | None:
    known = [number for number in row if number is not None]
    if len(known) < len(row):
        return None
    first, second = known[0], known[-1]
    if len(known) > _MOST_OPERANDS.get(operator, 2):
        return None
    if operator in ("Identity", "Cast", "Floor", "Ceil", "Round"):
        return first
    if operator == "Mul":
        return first * second
    if operator == "Div":
        return first.over(second)
    if operator == "Where":
        return None if known[0].names else known[1] if known[0].factor else known[2]
    if operator == "Equal":
        return _is_equal(first, second)
    if first.names or second.names:
        return _with_names(operator, first, second)
    plain = {"Add": first.factor + second.factor, "Sub": first.factor - second.factor, "Neg": -first.factor}
    plain |= {"Max": max(first.factor, second.factor), "Min": min(first.factor, second.factor)}
    return Size(plain[operator]) if operator in plain else None


def _with_names(operator: str, first: Size, second: Size) -> Size | None:
    if operator in ("Add", "Sub") and first.names == second.names:
        factor = first.factor + second.factor if operator == "Add" else first.factor - second.factor
        return Size(factor, first.names) if factor else Size(0)
    if operator == "Add" and Size(0) in (first, second):
        return first if second == Size(0) else second
    return first if operator == "Sub" and second == Size(0) else None


def _is_equal(first: Size, second: Size) -> Size | None:
    """Sizes of axes are not negative."""
    if first == second:
        return ONE
    if not first.names and not second.names:
        return Size(0)
    plain = second if first.names else first
    return Size(0) if not plain.names and plain.factor < 0 else None


def numbers_reduced(node: Node, args: Args) -> list[Value]:
    """The product of a few numbers."""
    found = numbers_of(data(args))
    known = [number for number in found if number is not None]
    keeps = node.attributes.get("keepdims", 1) != 0
    sizes = [ONE] if keeps else []
    return [of_numbers([data(args)], sizes, [product(known) if len(known) == len(found) else None])]


def constant_of_shape(node: Node, args: Args) -> list[Value]:
    """One number everywhere, in a shape that is computed."""
    given = node.attributes.get("value")
    number = 0 if given is None else given.numbers[0] if given.numbers else None
    sizes = sizes_of(numbers_of(data(args)))
    found = filled(sizes)
    count = product(sizes)
    if (
        number is not None
        and not found.is_by_row
        and not count.names
        and count.factor <= MAX_NUMBERS
        and len(sizes) < 2
    ):
        return [fixed(sizes, [Size(number)] * count.factor)]
    return [found]


def sizes_of(numbers: Numbers) -> list[Size]:
    """The numbers, which must all be known."""
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        raise CannotTell
    return known


def filled(sizes: Sequence[Size]) -> Value:
    """What is computed of constants alone in a shape of these sizes."""
    rows = [axis for axis, found in enumerate(sizes) if found.counts_rows]
    if not rows:
        return fixed(sizes)
    if len(rows) > 1 or sizes[rows[0]].names.count(ROWS) > 1:
        raise Mixes("has an element for each pair of rows")
    return by_row(rows[0], sizes)


def numbered(node: Node, args: Args) -> list[Value]:
    """Range: numbers in order; as many as there are rows, they tell a row's place."""
    if any(value is not None and value.kind == "counted" for value in args):
        raise Mixes("numbers the rows")
    if any(value is not None and value.is_by_row for value in args):
        raise Mixes("depends on a row's numbers in its length")
    return [fixed([unknown_size()])]
