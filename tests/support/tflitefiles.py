"""TFLite files, made on the spot without TensorFlow: tensors, operators, signatures and what lies in their metadata."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

Operator, Kind = schema.BuiltinOperator, schema.TensorType
_KINDS = {
    "f4": Kind.FLOAT32,
    "i4": Kind.INT32,
    "u1": Kind.UINT8,
    "i1": Kind.INT8,
    "i8": Kind.INT64,
    "c8": Kind.COMPLEX64,
}


class Graph:
    """One subgraph under construction; tensors are numbered as they are added."""

    def __init__(self, file: "TfliteFile") -> None:
        self._file = file
        self.made = schema.SubGraphT()
        self.made.tensors, self.made.operators, self.made.inputs, self.made.outputs = [], [], [], []

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        kind: Any = "f4",
        *,
        data: Any = None,
        quantized: tuple[float, int] | None = None,
        is_variable: bool = False,
    ) -> int:
        """The number of a new tensor; -1 in its shape is any size. `kind` is NumPy's name, or the schema's number."""
        made = schema.TensorT()
        made.name = name
        made.type = _KINDS[kind] if isinstance(kind, str) else kind
        made.shape = [1 if size < 0 else size for size in shape]
        made.shapeSignature = list(shape) if -1 in shape else None
        made.hasRank = True
        made.isVariable = is_variable
        made.buffer = self._file.buffer(np.asarray(data, kind).tobytes() if data is not None else b"")
        if quantized:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [quantized[0]], [quantized[1]]
        self.made.tensors.append(made)
        return len(self.made.tensors) - 1

    def operator(
        self, code: int | str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None, kind: int = 0
    ) -> None:
        """Add an operator: the schema's number of one of LiteRT's own, or the name of a custom one."""
        made = schema.OperatorT()
        made.opcodeIndex = self._file.operator_code(code)
        made.inputs, made.outputs = list(inputs), list(outputs)
        made.builtinOptions, made.builtinOptionsType = options, kind
        self.made.operators.append(made)

    def ends(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """What the graph takes and gives."""
        self.made.inputs, self.made.outputs = list(inputs), list(outputs)


class TfliteFile:
    """A file under construction."""

    def __init__(self) -> None:
        self._made = schema.ModelT()
        self._made.version, self._made.description = 3, "test"
        self._made.subgraphs, self._made.operatorCodes, self._made.buffers = [], [], [schema.BufferT()]
        self._made.metadata, self._made.signatureDefs = [], []
        self._codes: list[int | str] = []

    def graph(self) -> Graph:
        """A new subgraph; the first is the model."""
        graph = Graph(self)
        self._made.subgraphs.append(graph.made)
        return graph

    def buffer(self, content: bytes) -> int:
        """The number of a new buffer, 0 (the empty one) for nothing."""
        if not content:
            return 0
        made = schema.BufferT()
        made.data = list(content)
        self._made.buffers.append(made)
        return len(self._made.buffers) - 1

    def operator_code(self, code: int | str) -> int:
        """The number of an operator's code in the file."""
        if code not in self._codes:
            made = schema.OperatorCodeT()
            made.builtinCode = Operator.CUSTOM if isinstance(code, str) else code
            made.deprecatedBuiltinCode = min(made.builtinCode, 127)
            made.customCode = code if isinstance(code, str) else None
            made.version = 1
            self._made.operatorCodes.append(made)
            self._codes.append(code)
        return self._codes.index(code)

    def signature(self, name: str, inputs: Mapping[str, int], outputs: Mapping[str, int], subgraph: int = 0) -> None:
        """Add a signature; tensors by what callers call them."""
        made = schema.SignatureDefT()
        made.signatureKey, made.subgraphIndex = name, subgraph
        made.inputs, made.outputs = _maps(inputs), _maps(outputs)
        self._made.signatureDefs.append(made)

    def metadata(self, name: str, content: bytes) -> None:
        """Add an entry to the file's metadata."""
        made = schema.MetadataT()
        made.name, made.buffer = name, self.buffer(content)
        self._made.metadata.append(made)

    def content(self, packed: Mapping[str, bytes] | None = None) -> bytes:
        """The file, with these files in an archive behind the model."""
        builder = flatbuffers.Builder()
        builder.Finish(self._made.Pack(builder), b"TFL3")
        return bytes(builder.Output()) + (_archive(packed) if packed else b"")


def _maps(tensors: Mapping[str, int]) -> list[Any]:
    made = []
    for name, number in tensors.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, number
        made.append(entry)
    return made


def _archive(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def adding(tensors: Sequence[str] | Mapping[str, Sequence[int]] = ("x", "y")) -> TfliteFile:
    """A model that adds its inputs, a lone one to itself: the names of its tensors, the last one for the output.

    Their shapes are [1, 2] where none are given.
    """
    file = TfliteFile()
    graph = file.graph()
    named = tensors.items() if isinstance(tensors, Mapping) else ((name, (1, 2)) for name in tensors)
    numbers = [graph.tensor(name, shape) for name, shape in named]
    graph.operator(Operator.ADD, [numbers[0], numbers[-2]], [numbers[-1]], schema.AddOptionsT(), _ADD)
    graph.ends(numbers[:-1], numbers[-1:])
    return file


_ADD = schema.BuiltinOptions.AddOptions


def counting() -> TfliteFile:
    """A model with a variable that grows by the input at every run; its output is the variable."""
    file = TfliteFile()
    graph, start = file.graph(), file.graph()
    x = graph.tensor("x", (1, 2))
    handle, old = graph.tensor("handle", (), Kind.RESOURCE), graph.tensor("old", (1, 2))
    new = graph.tensor("y", (1, 2))
    variable = schema.VarHandleOptionsT()
    variable.container, variable.sharedName = "", "total"
    once = schema.CallOnceOptionsT()
    once.initSubgraphIndex = 1
    graph.operator(Operator.CALL_ONCE, [], [], once, schema.BuiltinOptions.CallOnceOptions)
    graph.operator(Operator.VAR_HANDLE, [], [handle], variable, schema.BuiltinOptions.VarHandleOptions)
    graph.operator(Operator.READ_VARIABLE, [handle], [old])
    graph.operator(Operator.ADD, [old, x], [new], schema.AddOptionsT(), _ADD)
    graph.operator(Operator.ASSIGN_VARIABLE, [handle, new], [])
    graph.ends([x], [new])
    zeros, first = start.tensor("zeros", (1, 2), data=[[100.0, 200.0]]), start.tensor("handle", (), Kind.RESOURCE)
    start.operator(Operator.VAR_HANDLE, [], [first], variable, schema.BuiltinOptions.VarHandleOptions)
    start.operator(Operator.ASSIGN_VARIABLE, [first, zeros], [])
    return file


def recurrent() -> TfliteFile:
    """A fused recurrent layer of one unit: `y` = `x` + its last `y`, kept in a variable tensor."""
    file = TfliteFile()
    graph = file.graph()
    x = graph.tensor("x", (1, 1))
    weights, again = graph.tensor("w", (1, 1), data=[[1.0]]), graph.tensor("r", (1, 1), data=[[1.0]])
    bias, state = graph.tensor("b", (1,), data=[0.0]), graph.tensor("state", (1, 1), is_variable=True)
    y = graph.tensor("y", (1, 1))
    graph.operator(
        Operator.RNN, [x, weights, again, bias, state], [y], schema.RNNOptionsT(), schema.BuiltinOptions.RNNOptions
    )
    graph.ends([x], [y])
    return file
