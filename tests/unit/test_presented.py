"""What callers see of a model whose manifest leaves its signatures out."""

import pytest

from millrace.artifacts.manifest import Batching, DecodeImage, LookUpWords, Manifest, ManifestError, NameWords, Tokenize
from millrace.protocol.tensors import Signature, TensorSpec
from worker.loading.presented import completed, inputs_of, notes

IDS, MASK, TYPES = (
    TensorSpec(name=name, datatype="INT64", shape=(-1, -1))
    for name in ("input_ids", "attention_mask", "token_type_ids")
)
PIXELS = TensorSpec(name="image", datatype="FP32", shape=(-1, 28, 28, 1))
FILES = TensorSpec(name="image", datatype="BYTES", shape=(-1,))
K = TensorSpec(name="k", datatype="INT32", shape=(-1,))
SCORES = TensorSpec(name="scores", datatype="FP32", shape=(-1, 2))
NEAREST = TensorSpec(name="nearest", datatype="INT32", shape=(-1, 5))
TOKENIZED = Tokenize(tokenizer="tokenizer.json")


def graph_of(*inputs: TensorSpec, output: TensorSpec = SCORES) -> dict[str, Signature]:
    return {"serving_default": Signature(inputs=inputs, outputs=(output,))}


def test_what_steps_make_is_replaced_in_its_place_by_what_they_take() -> None:
    manifest = completed(Manifest(preprocessing=(TOKENIZED,)), graph_of(K, IDS, MASK, TYPES))
    step = manifest.preprocessing[0]
    assert isinstance(step, Tokenize)
    assert (step.output, step.mask, step.types) == ("input_ids", "attention_mask", "token_type_ids")
    text = TensorSpec(name="text", datatype="BYTES", shape=(-1,), max_bytes=65_536)
    assert manifest.signatures == graph_of(K, text)
    assert manifest.batching is None  # as the file says


def test_a_graph_without_a_mask_gets_none() -> None:
    step = completed(Manifest(preprocessing=(TOKENIZED,)), graph_of(IDS)).preprocessing[0]
    assert isinstance(step, Tokenize)
    assert (step.output, step.mask, step.types) == ("input_ids", "", "")


def test_words_and_their_names_are_strings() -> None:
    ids = TensorSpec(name="ids", datatype="INT32", shape=(-1, -1))
    weights = TensorSpec(name="weights", datatype="FP32", shape=(-1, -1))
    steps = (LookUpWords(input="tokens", output="ids", weights="weights"),)
    found = completed(
        Manifest(preprocessing=steps, postprocessing=(NameWords(output="nearest"),)),
        graph_of(ids, weights, output=NEAREST),
    ).signatures["serving_default"]
    assert [(spec.name, spec.datatype, spec.optional) for spec in (*found.inputs, *found.outputs)] == [
        ("tokens", "BYTES", False),
        ("weights", "FP32", True),
        ("nearest", "BYTES", False),
    ]


def test_a_signature_that_decodes_images_itself_is_left_out() -> None:
    graph = {"serving_image": Signature(inputs=(FILES,), outputs=(SCORES,))} | graph_of(PIXELS)
    for given in (graph, dict(reversed(graph.items()))):
        manifest = completed(Manifest(preprocessing=(DecodeImage(input="image"),)), given)
        assert list(manifest.signatures) == ["serving_default"]
        assert inputs_of(manifest, given) == {"image": PIXELS}
    assert list(notes(manifest, graph)) == [
        "Signature 'serving_image' is left out: it takes itself what the manifest's steps take."
    ]
    (spec,) = manifest.signatures["serving_default"].inputs
    assert (spec.datatype, spec.media) == ("FP32", "image")


def test_a_manifest_with_signatures_stays_as_it_is() -> None:
    signatures = graph_of(PIXELS)
    manifest = Manifest(signatures=signatures, preprocessing=(DecodeImage(input="image"),))
    found = completed(manifest, graph_of(PIXELS))
    assert (found.signatures, found.batching) == (signatures, Batching())


def test_a_first_dimension_of_one_counts_rows_where_steps_make_them() -> None:
    one, scores = (TensorSpec(name=spec.name, datatype="FP32", shape=(1, *spec.shape[1:])) for spec in (PIXELS, SCORES))
    found = completed(Manifest(preprocessing=(DecodeImage(),)), graph_of(one, output=scores))
    assert found.batching == Batching(max_batch_size=1)
    assert {spec.shape[0] for each in found.signatures.values() for spec in (*each.inputs, *each.outputs)} == {-1}
    weights = TensorSpec(name="w", datatype="FP32", shape=(64, 3), optional=True)
    with_weights = completed(Manifest(preprocessing=(DecodeImage(),)), graph_of(one, weights, output=scores))
    assert with_weights.signatures == found.signatures
    assert completed(Manifest(), graph_of(one, output=scores)).batching is None
    told = completed(Manifest(preprocessing=(DecodeImage(),), batching=Batching(max_batch_size=0)), graph_of(one))
    assert told.batching == Batching(max_batch_size=0)


def test_an_input_must_be_named_where_there_are_several() -> None:
    with pytest.raises(ManifestError, match="must name its input: the model's file has 'image', 'k'"):
        completed(Manifest(preprocessing=(DecodeImage(),)), graph_of(PIXELS, K))
