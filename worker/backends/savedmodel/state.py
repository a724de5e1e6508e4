"""What a signature needs and changes: found by walking over the operators that its outputs need."""

import re
from collections.abc import Collection, Iterator
from typing import Any

# Operators that change what later runs read. Those of a single run (stacks, tensor arrays, lists) are not among them.
_WRITES = re.compile(
    r"Assign(Add|Sub)?(VariableOp)?"
    r"|(Resource)?StridedSliceAssign"
    r"|(Resource)?CountUpTo"
    r"|Resource(Sparse)?Apply\w+|(Sparse)?Apply[A-Z]\w+"
    r"|ResourceScatter\w+|Scatter(Update|Add|Sub|Mul|Div|Min|Max)|ScatterNd(Update|Add|Sub|Min|Max)"
    r"|LookupTable(Insert|Remove|Import)(V2)?"
    r"|Queue(Enqueue|Dequeue)\w*|Barrier(InsertMany|TakeMany)"
    r"|(Ordered)?Map(Stage|Unstage\w*)|Stage|Unstage"
)
_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")
_PYTHON = ("PyFunc", "PyFuncStateless", "EagerPyFunc")


class Operators:
    """The operators of a GraphDef, of which each signature needs some."""

    def __init__(self, graph_def: Any) -> None:
        self._nodes = {node.name: node for node in graph_def.node}
        self._functions = {function.signature.name: function for function in graph_def.library.function}

    def needed(self, outputs: Collection[str], inputs: Collection[str]) -> set[str]:
        """The operators that run to get these tensors from those, whichever way the branches go."""
        operators: set[str] = set()
        functions: set[str] = set()
        for node in self._behind(outputs, {_node_of(name) for name in inputs}):
            self._add(node, operators, functions)
        return operators

    def variables(self, outputs: Collection[str], inputs: Collection[str]) -> list[str]:
        """The nodes of the variables that these tensors need."""
        behind = self._behind(outputs, {_node_of(name) for name in inputs})
        return [node.name for node in behind if node.op in _VARIABLES]

    def _behind(self, outputs: Collection[str], fed: Collection[str]) -> Iterator[Any]:
        waiting, seen = [_node_of(name) for name in outputs], set(fed)
        while waiting:
            name = waiting.pop()
            if name not in seen and name in self._nodes:
                seen.add(name)
                yield self._nodes[name]
                waiting += map(_node_of, self._nodes[name].input)

    def _add(self, node: Any, operators: set[str], functions: set[str]) -> None:
        waiting = [node]
        while waiting:
            node = waiting.pop()
            operators.add(node.op)
            for name in {node.op, *_functions_of(node)} & self._functions.keys() - functions:
                functions.add(name)
                waiting += self._functions[name].node_def


def writes(operators: Collection[str]) -> list[str]:
    """Those that change what later runs read, sorted."""
    return sorted(operator for operator in operators if _WRITES.fullmatch(operator))


def calls_python(operators: Collection[str]) -> bool:
    """Whether one of them calls a Python function, which no file holds."""
    return not set(_PYTHON).isdisjoint(operators)


def _node_of(name: str) -> str:
    """The node that a tensor, an input or a control input names."""
    return name.removeprefix("^").partition(":")[0]


def _functions_of(node: Any) -> Iterator[str]:
    for value in node.attr.values():
        if value.WhichOneof("value") == "func":
            yield value.func.name
        yield from (function.name for function in value.list.func)
