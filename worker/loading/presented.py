"""A manifest that says no more than it must, completed by what the model's file says."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

import msgspec

from millrace.artifacts.manifest import Batching, DecodeImage, LookUpWords, Manifest, ManifestError, Tokenize
from millrace.protocol.tensors import BYTES, DEFAULT_SIGNATURE, Signature, TensorSpec

_IDS, _MASK, _TYPES = "input_ids", "attention_mask", "token_type_ids"
_ONE_BY_ONE = Batching(max_batch_size=1)
_Step = TypeVar("_Step", bound=DecodeImage | Tokenize | LookUpWords)


def completed(manifest: Manifest, graph: Mapping[str, Signature]) -> Manifest:
    """The manifest with the names that its steps leave out, with signatures, and with batching where that is known.

    Without signatures, callers see the graph's, less the inputs that steps make and with those that they take; not
    those that take images or texts of the same name themselves, as some graphs do. Where every tensor has a first
    dimension of exactly 1, steps show that it counts rows, which then run one by one. Raises `ManifestError` for a step
    that fits no input of the graph.
    """
    inputs = inputs_of(manifest, graph)
    steps = tuple(_named(step, inputs) for step in manifest.preprocessing)
    manifest = msgspec.structs.replace(manifest, preprocessing=steps)
    if manifest.signatures:
        return msgspec.structs.replace(manifest, batching=manifest.batching or Batching())
    graph = {name: each for name, each in graph.items() if not any(_takes_itself(each, step) for step in steps)}
    signatures = {name: _presented(each, manifest) for name, each in graph.items()}
    if steps and not manifest.batching and _is_for_one_row(graph):
        signatures = {name: _by_rows(signature) for name, signature in signatures.items()}
        manifest = msgspec.structs.replace(manifest, batching=_ONE_BY_ONE)
    return msgspec.structs.replace(manifest, signatures=signatures)


def notes(completed: Manifest | None, graph: Mapping[str, Signature]) -> Iterator[str]:
    """What the steps of a manifest that was completed changed in what the model's file has, a sentence each."""
    if completed is None or not completed.preprocessing:
        return
    for name in graph.keys() - completed.signatures.keys():
        yield f"Signature {name!r} is left out: it takes itself what the manifest's steps take."
    if completed.batching == _ONE_BY_ONE and _is_for_one_row(graph):
        yield "Rows run one by one: every tensor of the model's file has a first dimension of 1."


def inputs_of(manifest: Manifest | None, graph: Mapping[str, Signature]) -> dict[str, TensorSpec]:
    """The graph's inputs in any signature that is served, by name: as the default signature has them, if it does."""
    served = [each for name, each in graph.items() if not manifest or name in (manifest.signatures or graph)]
    served.sort(key=lambda each: each is not graph.get(DEFAULT_SIGNATURE))
    return {spec.name: spec for signature in reversed(served) for spec in signature.inputs}


def _takes_itself(graph: Signature, step: DecodeImage | Tokenize | LookUpWords) -> bool:
    """Whether the graph has an input that it takes as the step does, so that the step would get in its way."""
    taken = (step.input, step.pair) if isinstance(step, Tokenize) else (step.input,)
    return any(spec.name in taken and spec.datatype == BYTES for spec in graph.inputs)


def _named(step: _Step, inputs: Mapping[str, TensorSpec]) -> _Step:
    """The step with the names that it leaves out."""
    has = f"the model's file has {', '.join(map(repr, inputs)) or 'no inputs'}"
    if isinstance(step, DecodeImage):
        required = [name for name, spec in inputs.items() if not spec.optional]
        if not step.input and len(required) != 1:
            raise ManifestError(f"decode_image must name its input: {has}")
        step = msgspec.structs.replace(step, input=step.input or required[0])
        if step.input not in inputs:
            raise ManifestError(f"decode_image is for an input {step.input!r}, but {has}")
    elif isinstance(step, Tokenize) and step.tokenizer:
        usual = {"output": _IDS, "mask": _MASK, "types": _TYPES}
        step = msgspec.structs.replace(
            step, **{field: getattr(step, field) or (name if name in inputs else "") for field, name in usual.items()}
        )
        if not step.output:
            raise ManifestError(f"tokenize must name as its output the input that takes ids: {has}")
    return step


def _presented(graph: Signature, manifest: Manifest) -> Signature:
    """The graph's signature as callers see it."""
    inputs = list(graph.inputs)
    for step in manifest.preprocessing:
        made = set(made_by(step))
        places = [place for place, spec in enumerate(inputs) if spec.name in made]
        if places:
            taken = list(_taken_by(step, inputs[places[0]]))
            kept = [spec for spec in inputs if spec.name not in made]
            inputs = [*kept[: places[0]], *taken, *kept[places[0] :]]
    named = {step.output for step in manifest.postprocessing}
    outputs = [msgspec.structs.replace(spec, datatype=BYTES) if spec.name in named else spec for spec in graph.outputs]
    return msgspec.structs.replace(graph, inputs=tuple(inputs), outputs=tuple(outputs))


def made_by(step: DecodeImage | Tokenize | LookUpWords) -> tuple[str, ...]:
    """The graph's inputs that a step makes."""
    match step:
        case DecodeImage():
            return (step.input,)
        case Tokenize():
            return tuple(name for name in (step.output, step.mask, step.types) if name)
        case LookUpWords():
            return (step.output, step.weights)


def _taken_by(step: DecodeImage | Tokenize | LookUpWords, made: TensorSpec) -> Iterator[TensorSpec]:
    """What callers send in the place of what the step makes."""
    match step:
        case DecodeImage():
            yield msgspec.structs.replace(made, media="image")
        case Tokenize():
            for name in (step.input, step.pair):
                if name:
                    yield TensorSpec(name=name, datatype=BYTES, shape=(-1,), max_bytes=step.max_bytes)
        case LookUpWords():
            yield TensorSpec(name=step.input, datatype=BYTES, shape=(-1, -1))
            yield TensorSpec(name=step.weights, datatype="FP32", shape=(-1, -1), optional=True)


def _is_for_one_row(graph: Mapping[str, Signature]) -> bool:
    """Whether every tensor has a first dimension of 1, but for inputs that may be left out."""
    specs = [spec for signature in graph.values() for spec in (*signature.inputs, *signature.outputs)]
    specs = [spec for spec in specs if not spec.optional]
    return bool(specs) and all((spec.shape or ())[:1] == (1,) for spec in specs)


def _by_rows(signature: Signature) -> Signature:
    """The signature with a free first dimension in the place of 1, and without what has another (weights, perhaps)."""

    def free(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        rows = [spec for spec in specs if spec.shape[:1] in ((1,), (-1,))]
        return tuple(msgspec.structs.replace(spec, shape=(-1, *spec.shape[1:])) for spec in rows)

    return msgspec.structs.replace(signature, inputs=free(signature.inputs), outputs=free(signature.outputs))
