"""What a TFLite file says that LiteRT's interpreter does not tell: what keeps state, custom operators, its metadata."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from flatbuffers import flexbuffers

from millrace import rpc

_OPERATORS = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
_WRITES_STATE = ("ASSIGN_VARIABLE", "HASHTABLE_IMPORT")
_WRITES_STATE_IN_TENSORFLOW = ("FlexAssign", "FlexVarHandle", "FlexMutableHashTable", "FlexStack", "FlexTensorArray")
_SIGNATURES = "signature_defs_metadata"


@dataclass(frozen=True, slots=True)
class TensorFlowSignature:
    """A signature as TensorFlow Serving writes it into a file: the names of tensors by what callers call them."""

    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


class TfliteFile:
    """The file's content, which LiteRT has checked. Every method may raise `ValueError` where it is damaged."""

    def __init__(self, content: bytes) -> None:
        self._model = schema.Model.GetRootAs(content, 0)

    def metadata(self, name: str) -> bytes:
        """The content of an entry in the file's metadata, empty where there is none."""
        for i in range(self._model.MetadataLength()):
            entry = self._model.Metadata(i)
            if entry.Name() == name.encode():
                data = self._model.Buffers(entry.Buffer()).DataAsNumpy()
                return b"" if isinstance(data, int) else bytes(data)
        return b""

    def tensorflow_signatures(self) -> dict[str, TensorFlowSignature]:
        """The signatures that the file's metadata has, by name."""
        content = self.metadata(_SIGNATURES)
        if not content:
            return {}
        entries = flexbuffers.GetRoot(bytearray(content)).AsMap
        return {
            key.AsKey: _signature(value.AsStringBytes) for key, value in zip(entries.Keys, entries.Values, strict=True)
        }

    def operators(self) -> set[str]:
        """The names of all operators, custom ones too."""
        return {self._operator(i) for i in range(self._model.OperatorCodesLength())}

    def custom_operators(self) -> set[str]:
        """The names of the operators that are not LiteRT's own."""
        codes = (self._model.OperatorCodes(i) for i in range(self._model.OperatorCodesLength()))
        return {str(code.CustomCode().decode(errors="replace")) for code in codes if code.CustomCode()}

    def variables(self) -> list[str]:
        """The names of tensors that keep their values from run to run."""
        return [
            (tensor.Name() or b"").decode(errors="replace")
            for graph in self._subgraphs()
            for i in range(graph.TensorsLength())
            if (tensor := graph.Tensors(i)).IsVariable()
        ]

    def writes_resources(self) -> bool:
        """Whether a run changes variables or tables that later runs read. What fills them at the start is no change."""
        writers = {
            i
            for i in range(self._model.OperatorCodesLength())
            if self._operator(i) in _WRITES_STATE or self._operator(i).startswith(_WRITES_STATE_IN_TENSORFLOW)
        }
        if not writers:
            return False
        once = self._run_once()
        return any(
            graph.Operators(i).OpcodeIndex() in writers
            for number, graph in enumerate(self._subgraphs())
            if number not in once
            for i in range(graph.OperatorsLength())
        )

    def _run_once(self) -> set[int]:
        """The subgraphs that CALL_ONCE runs."""
        found = set()
        for graph in self._subgraphs():
            for i in range(graph.OperatorsLength()):
                operator = graph.Operators(i)
                if operator.BuiltinOptionsType() == schema.BuiltinOptions.CallOnceOptions:
                    options = schema.CallOnceOptions()
                    table = operator.BuiltinOptions()
                    options.Init(table.Bytes, table.Pos)
                    found.add(options.InitSubgraphIndex())
        return found

    def _subgraphs(self) -> Iterator[Any]:
        return (self._model.Subgraphs(i) for i in range(self._model.SubgraphsLength()))

    def _operator(self, number: int) -> str:
        code = self._model.OperatorCodes(number)
        if custom := code.CustomCode():
            return str(custom.decode(errors="replace"))
        builtin = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        return str(_OPERATORS.get(builtin, builtin))


def _signature(content: bytes) -> TensorFlowSignature:
    definition = rpc.message("tensorflow.SignatureDef").FromString(content)
    return TensorFlowSignature(
        inputs={alias: info.name for alias, info in definition.inputs.items()},
        outputs={alias: info.name for alias, info in definition.outputs.items()},
    )
