"""Models of your own, 3: one that takes image files and one that takes texts, with nothing but a manifest to say so.

    python examples/images_and_texts.py models
    millrace up --models models
    curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' localhost:8000/v1/models/colours:classify
    curl -F image=@cat.jpg -F image=@dog.png localhost:8000/v1/models/colours:predict
    curl localhost:8000/v1/models/mood:predict -d '{"instances": ["a good film", "not bad"]}'

The two ONNX files are tiny, and made here by hand; they stand for a ResNet and a BERT of anybody's. `colours` says
whether an image is red, green or blue. `mood` adds up what its few words mean. The script needs the package `onnx`, a
worker that serves `mood` needs `tokenizers`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# What torchvision's models were trained with.
COLOURS: dict[str, Any] = {
    "preprocessing": [
        {
            "kind": "decode_image",
            "fit": "crop",
            "shorter_side": 36,
            "scale": "1/255",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        }
    ],
    "labels": ["red", "green", "blue"],
}
MOOD: dict[str, Any] = {
    "preprocessing": [{"kind": "tokenize", "tokenizer": "tokenizer.json", "max_length": 64}],
    "labels": ["negative", "positive"],
}
MEANINGS = {"[PAD]": 0, "[UNK]": 0, "[CLS]": 0, "[SEP]": 0, "good": 2, "great": 3, "fun": 2, "bad": -2, "bore": -3}


def main(root: Path) -> None:
    """Write version 1 of both models into the repository."""
    write(root / "colours" / "1", colours(), COLOURS)
    write(root / "mood" / "1", mood(), MOOD)
    (root / "mood" / "1" / "tokenizer.json").write_text(json.dumps(tokenizer(), indent=1))


def write(folder: Path, model: onnx.ModelProto, manifest: dict[str, Any]) -> None:
    """A version's folder: the model's file, and beside it what the file cannot say."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))


def colours() -> onnx.ModelProto:
    """Pixels [n, 3, 32, 32], as torchvision normalises them, to probabilities [n, 3]: how strong each channel is."""
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["channels"], axes=[2, 3], keepdims=0),
        helper.make_node("Softmax", ["channels"], ["probabilities"], axis=1),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, 32, 32])
    return made(nodes, [pixels], 3)


def mood() -> onnx.ModelProto:
    """Token ids and their mask [n, length], as BERT takes them, to probabilities [n, 2]."""
    table = np.array([[-value, value] for value in MEANINGS.values()], np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["meanings"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["meanings", "weights"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "along"], ["sum"], keepdims=0),
        helper.make_node("Softmax", ["sum"], ["probabilities"], axis=1),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "length"])
        for name in ("input_ids", "attention_mask")
    ]
    constants = {"table": table, "last": np.array([2], np.int64), "along": np.array([1], np.int64)}
    return made(nodes, inputs, 2, constants)


def made(nodes: list[Any], inputs: list[Any], classes: int, constants: dict[str, Any] | None = None) -> onnx.ModelProto:
    """The model with these nodes and one output, `probabilities` [n, classes]."""
    output = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", classes])
    initializers = [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def tokenizer() -> dict[str, Any]:
    """What `tokenizer.json` holds for words in lower case between [CLS] and [SEP]; models come with their own."""
    ids = {word: number for number, word in enumerate(MEANINGS)}
    marks = [{"SpecialToken": {"id": mark, "type_id": 0}} for mark in ("[CLS]", "[SEP]")]
    text = [marks[0], {"Sequence": {"id": "A", "type_id": 0}}, marks[1]]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": text,
            "pair": [*text, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {mark: {"id": mark, "ids": [ids[mark]], "tokens": [mark]} for mark in ("[CLS]", "[SEP]")},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": "[UNK]"},
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
