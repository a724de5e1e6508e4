"""Do rows stay apart in an ONNX graph? Followed from the inputs' first axis to the outputs, operator by operator.

What can be told is sure: that rows are apart is proved, and where they mix the operator is named. Otherwise a trial
decides, and where even the dimensions' names speak against it, there is none.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from worker.graphs import onnx_graph
from worker.graphs.arithmetic import ARITHMETIC, arithmetic, numbers_reduced
from worker.graphs.onnx_graph import Graph, Node, OnnxFile
from worker.graphs.rules import MAY_MIX, RANDOM, RULES, SOFTMAX, CannotTell, Mixes, from_axis, of_constant
from worker.graphs.shaping import SHAPING
from worker.graphs.values import ROWS, Size, Value, by_row, fixed, mixed, unknown, unknown_size
from worker.protofields import Malformed

_Dimensions = Sequence[int | str] | None
_SOFTMAX_ALONG_ONE = 13  # the operator set's version
_DEEPEST = 8  # graphs in graphs
# Names that converters make up for dimensions: another one for each tensor.
_MADE_UP = re.compile(r"unk__\d+|.*_dim_\d+|s\d+|\?|None|dynamic_axes_\d+")
# First axes that are no rows where they bear such a name.
_NO_ROWS = re.compile(
    r"(num_?|n_)?(seq(uence)?|time|step|frame|token|node|edge|point|sample_?rate|audio|length|len)s?"
    r"(_?(len(gth)?|count|num|steps?))?",
    re.IGNORECASE,
)
_ODD = (IndexError, KeyError, TypeError, ValueError, AttributeError)  # a graph that is not as the standard has it


@dataclass(frozen=True, slots=True)
class Findings:
    """`mixed` says why rows must not run together, "" where the file does not show it; `are_apart` that they may."""

    mixed: str = ""
    are_apart: bool = False


def of_file(path: Path) -> Findings:
    """What the file shows; nothing where it cannot be read here, as the runtime may all the same."""
    try:
        return of_model(onnx_graph.read(path))
    except (Malformed, OSError, ValueError, KeyError, RecursionError):
        return Findings()


def of_model(model: OnnxFile) -> Findings:
    """What a model shows whose inputs' first dimensions are all free; nothing of others."""
    graph = model.graph
    inputs = {name: dims for name, dims in graph.inputs.items() if name not in graph.constants}
    if not inputs or any(not dims or isinstance(dims[0], int) for dims in inputs.values()):
        return Findings()
    if reason := _differing(inputs.items()) or _twice(inputs):
        return Findings(reason)
    follower = _Follower(model)
    values = {name: _input(dims or ()) for name, dims in inputs.items()}
    found = [_as_output(name, value) for name, value in follower.outputs(graph, values).items()]
    if reason := next((value.reason for value in found if value.kind == "mixed"), ""):
        return Findings(reason)
    if found and all(value.is_by_row for value in found):
        return Findings(are_apart=True)
    return Findings(_differing([*inputs.items(), *graph.outputs.items()]) or _no_rows(inputs.items()))


def _input(dims: Sequence[int | str]) -> Value:
    return by_row(0, [Size(1, (ROWS,)), *map(_size, dims[1:])])


def _size(dim: int | str) -> Size:
    if isinstance(dim, int):
        return Size(dim)
    return Size(1, (dim,)) if dim else unknown_size()


def _as_output(name: str, value: Value) -> Value:
    """The value, mixed where its first axis does not count rows one by one."""
    if value.kind in ("fixed", "counted"):
        return mixed(f"output {name!r} has no rows")
    if value.is_by_row and (value.axis or (value.shape or ())[:1] != (Size(1, (ROWS,)),)):
        return mixed(f"output {name!r} does not have one place for each row along its first axis")
    return value


# The names of dimensions


def _first_names(tensors: Iterable[tuple[str, _Dimensions]]) -> list[tuple[str, str]]:
    """Tensors with the names that somebody gave to their first dimensions."""
    return [
        (tensor, dims[0])
        for tensor, dims in tensors
        if dims and isinstance(dims[0], str) and dims[0] and not _MADE_UP.fullmatch(dims[0])
    ]


def _differing(tensors: Iterable[tuple[str, _Dimensions]]) -> str:
    """Why names show that first dimensions are not one and the same."""
    names = _first_names(tensors)
    for tensor, name in names:
        if name != names[0][1]:
            return f"the first dimension is {names[0][1]!r} in {names[0][0]!r} and {name!r} in {tensor!r}"
    return ""


def _twice(inputs: Mapping[str, _Dimensions]) -> str:
    """Why an input has an element for each pair of rows."""
    names = {name for _, name in _first_names(inputs.items())}
    for tensor, dims in inputs.items():
        for axis, dim in enumerate(dims or ()):
            if axis and dim in names:
                return f"dimension {dim!r} is the first one, and also axis {axis} of {tensor!r}"
    return ""


def _no_rows(tensors: Iterable[tuple[str, _Dimensions]]) -> str:
    for tensor, name in _first_names(tensors):
        if _NO_ROWS.fullmatch(name):
            return f"the first dimension of {tensor!r} is named {name!r}"
    return ""


# The graph


class _Follower:
    """Follows values through the graphs of one model."""

    def __init__(self, model: OnnxFile) -> None:
        self._opset = model.opset
        self._functions = model.functions

    def outputs(self, graph: Graph, given: Mapping[str, Value], depth: int = 0) -> dict[str, Value]:
        """The graph's outputs; `given` are its inputs and, of a graph in a graph, what lies around it."""
        values = dict(given) | {name: of_constant(found) for name, found in graph.constants.items()}
        for node in graph.nodes:
            found = self._followed(node, values, depth)
            for place, name in enumerate(node.outputs):
                values[name] = found[place] if place < len(found) else unknown(f"{node.operator} has more outputs")
        return {name: values.get(name) or unknown(f"{name!r} is computed nowhere") for name in graph.outputs}

    def _followed(self, node: Node, values: Mapping[str, Value], depth: int) -> list[Value]:
        args = [values.get(name, unknown(f"{name!r} is computed nowhere")) if name else None for name in node.inputs]
        count = max(1, len(node.outputs))
        worst = next((value for value in args if value is not None and value.kind == "mixed"), None)
        if worst is None and node.operator in RANDOM:
            worst = mixed(f"{node.operator} draws random numbers")
        if worst is None and any(isinstance(attribute, Graph) for attribute in node.attributes.values()):
            return self._of_inner_graphs(node, args, values, depth)
        if worst is None:
            worst = self._of_unknown(node, args)
        if worst is not None:
            return [worst] * count
        is_fixed = all(value is None or value.kind == "fixed" for value in args)
        try:
            return self._by_rule(node, args)
        except Mixes as error:
            return [mixed(f"{node.operator} {error}")] * count
        except (CannotTell, *_ODD):
            return [fixed() if is_fixed else unknown(f"{node.operator} cannot be followed")] * count

    def _of_unknown(self, node: Node, args: Sequence[Value | None]) -> Value | None:
        """What is known of the outputs where an input is unknown."""
        worst = next((value for value in args if value is not None and value.kind == "unknown"), None)
        if worst is None:
            return None
        if node.operator in MAY_MIX or (node.domain == "" and _works_over_first(node, args)):
            return mixed(f"{node.operator} may work over rows")
        return worst

    def _by_rule(self, node: Node, args: Sequence[Value | None]) -> list[Value]:
        if (node.domain, node.operator) in self._functions:
            raise CannotTell
        if node.domain == "":
            if node.operator in ARITHMETIC and (found := arithmetic(node, args)):
                return [found]
            if node.operator == "ReduceProd" and args[0] is not None and args[0].numbers is not None:
                return numbers_reduced(node, args)
            if rule := SHAPING.get(node.operator):
                return rule(node, args)
            if node.operator in SOFTMAX and self._opset < _SOFTMAX_ALONG_ONE:
                return from_axis(node, args, default=1)
        rule = RULES.get(node.domain, {}).get(node.operator)
        if rule is None:
            raise CannotTell
        return rule(node, args)

    def _of_inner_graphs(
        self, node: Node, args: Sequence[Value | None], values: Mapping[str, Value], depth: int
    ) -> list[Value]:
        """The branches of an If, which must agree; of loops it cannot be told unless no row goes in."""
        graphs = [attribute for attribute in node.attributes.values() if isinstance(attribute, Graph)]
        count = max(1, len(node.outputs))
        used = [value for value in args if value is not None]
        used += [values[name] for graph in graphs for name in _names_in(graph) if name in values]
        if all(value.kind == "fixed" for value in used):
            return [fixed()] * count
        condition = args[0] if args else None
        if node.operator != "If" or depth > _DEEPEST:
            return [unknown(f"{node.operator} cannot be followed")] * count
        if condition is None or condition.kind not in ("fixed", "unknown"):
            return [mixed("If takes one branch for all rows")] * count
        branches = [list(self.outputs(graph, values, depth + 1).values()) for graph in graphs]
        if condition.kind == "unknown" or len({len(branch) for branch in branches}) > 1:
            return [condition if condition.kind == "unknown" else unknown("If cannot be followed")] * count
        return [_either(found) for found in zip(*branches, strict=True)]


def _either(branches: Sequence[Value]) -> Value:
    worst = next((value for value in branches if value.kind == "mixed"), None)
    if worst is not None:
        return worst
    same = all((value.kind, value.axis, value.shape) == _form(branches[0]) for value in branches)
    return branches[0] if same else unknown("the branches of an If differ")


def _form(value: Value) -> tuple[object, ...]:
    return value.kind, value.axis, value.shape


def _names_in(graph: Graph) -> Iterable[str]:
    for node in graph.nodes:
        yield from node.inputs
        for attribute in node.attributes.values():
            if isinstance(attribute, Graph):
                yield from _names_in(attribute)
    yield from graph.outputs


def _works_over_first(node: Node, args: Sequence[Value | None]) -> bool:
    """Whether an operator that works along axes does so along the first one, or all."""
    if node.operator.startswith("Reduce"):
        axes = node.attributes.get("axes")
        if axes is None and len(args) > 1 and args[1] is not None:
            axes = args[1].integers()
        return axes is None or 0 in axes
    if node.operator in ("Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin", "TopK"):
        default = 0 if node.operator.startswith("Arg") else -1
        return bool(node.attributes.get("axis", default) == 0)
    if node.operator == "CumSum":
        axes = args[1].integers() if len(args) > 1 and args[1] is not None else None
        return not axes or axes[0] == 0
    return False
