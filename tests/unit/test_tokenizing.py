"""Whatever the tokenizer and the texts, the graph gets what the library makes of them when it is called directly."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from millrace.artifacts.manifest import Tokenize
from millrace.protocol.errors import InvalidRequest
from millrace.protocol.tensors import TensorSpec

pytest.importorskip("tokenizers")
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from tests.support import wordpieces
from worker.preprocessing import tokenizing
from worker.preprocessing.tokenizing import Tokenizing

NAMES = ("input_ids", "attention_mask", "token_type_ids")
STEP = Tokenize(tokenizer="tokenizer.json", output=NAMES[0], mask=NAMES[1], types=NAMES[2], pair="other", max_length=9)
GRAPH = {name: TensorSpec(name=name, datatype="INT64", shape=(-1, -1)) for name in NAMES}


def bytes_of_roberta() -> Tokenizer:
    """Pairs of bytes, as GPT-2 and RoBERTa have them, with padding that is not 0."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["<s>", "<pad>", "</s>", *letters, "th", "the", "Ġthe"]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    tokenizer = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")
    return tokenizer


def pieces_of_xlnet() -> Tokenizer:
    """A unigram model, as SentencePiece has it, padded at the left."""
    scores = [("<unk>", 0.0), ("<pad>", 0.0), ("▁", -1.0), *((letter, -2.0) for letter in "abcdegothr"), ("▁the", -1.5)]
    tokenizer = Tokenizer(models.Unigram(scores, 0, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.enable_padding(direction="left", pad_id=1, pad_token="<pad>", pad_type_id=3)
    return tokenizer


KINDS = {"bert": wordpieces.wordpieces, "roberta": bytes_of_roberta, "xlnet": pieces_of_xlnet}
TEXT = st.text(st.sampled_from("the good bad films!  [SEP]<s>éß中\n\t\u200b"), max_size=20)


def loaded(kind: str, step: Tokenize = STEP) -> Tokenizing:
    with tempfile.TemporaryDirectory() as folder:
        wordpieces.write(Path(folder), KINDS[kind]())
        return tokenizing.load(step, Path(folder), GRAPH)


LOADED = {kind: loaded(kind) for kind in KINDS}


def raw(texts: Sequence[str]) -> Any:
    array = np.empty(len(texts), object)
    array[:] = [text.encode() for text in texts]
    return array


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(list(KINDS)), st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5))
def test_ids_masks_and_types_are_the_librarys(kind: str, pairs: list[tuple[str, str]]) -> None:
    direct = KINDS[kind]()
    direct.enable_truncation(9)
    if direct.padding is None:
        direct.enable_padding()
    expected = direct.encode_batch(pairs)
    rows = {"text": raw([first for first, _ in pairs]), "other": raw([second for _, second in pairs])}
    ours = LOADED[kind]
    for made in (ours(rows), ours(ours.ahead(rows))):
        assert made.keys() == set(NAMES)
        length = made["input_ids"].shape[1]
        columns = [(each.ids, each.attention_mask, each.type_ids) for each in expected]
        for place, name in enumerate(NAMES):
            assert made[name].dtype == np.int64
            assert made[name].shape == (len(pairs), length)
            if len(columns[0][0]):  # else the library pads to nothing, and graphs cannot do with that
                assert made[name].tolist() == [column[place] for column in columns]


def test_texts_of_a_request_that_is_a_whole_keep_their_shape() -> None:
    made = LOADED["bert"]({"text": raw(["good", "very bad"]).reshape(1, 2), "other": raw(["a", ""]).reshape(1, 2)})
    assert {array.shape for array in made.values()} == {(1, 2, 5)}


def test_one_wrong_text_among_many_is_its_own_rows_error() -> None:
    tokenizer = loaded("bert", Tokenize(tokenizer="tokenizer.json", output="input_ids", max_bytes=8))
    texts = raw(["good", "far too long", "bad"])
    texts[2] = b"\xff"
    encoded = tokenizer.ahead({"text": texts})["text"]
    assert tokenizer({"text": encoded[:1]})["input_ids"].shape == (1, 3)
    for row in (1, 2):
        with pytest.raises(InvalidRequest, match=r"too long|not UTF-8"):
            tokenizer({"text": encoded[row : row + 1]})
