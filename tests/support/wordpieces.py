"""A tokenizer of BERT's kind, a few words large, and as its library writes it."""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film", "very", "##ly", "##s", "not", "!"]


def wordpieces(words: list[str] = WORDS, **padding: Any) -> Tokenizer:
    """A tokenizer of these word pieces; `padding` is what its file is to say of that."""
    tokenizer = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    marks = [(mark, words.index(mark)) for mark in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    if padding:
        tokenizer.enable_padding(**padding)
    return tokenizer


def write(folder: Path, tokenizer: Tokenizer) -> None:
    """Write `tokenizer.json` into the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
