"""The exact bytes of every token id, and the forms under which graphs match them.

1. Byte-level tokenizers (GPT-2, Llama 3, SmolLM) spell each byte as one character: the map is undone.
2. SentencePiece-like ones (Llama 2, Gemma) spell a space as U+2581 and lone bytes as ``<0xNN>``.
3. Tokens that were added to the vocabulary, the special ones among them, are their own text.
4. Token ids that the model has and the tokenizer lacks get a form that no other token has.
5. Where no token stands at position 0 of a context, one more id than the model has stands for the text's beginning.
"""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import polars as pl
from tokenizers import Tokenizer

from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.tokens import display_text
from n2g_assets.method.tokens import normalise as normalised_form
from n2g_assets.model.tokens import SubjectTokenizer

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"
_BEGINNING = b"<beginning>"
"""How the beginning of the text is shown."""


def build_vocabulary(
    tokenizer: SubjectTokenizer, d_vocab: int, *, normalise: bool, bos_id: int, mask_id: int
) -> Vocabulary:
    """The subject model's ``d_vocab`` tokens, which may be more than the tokenizer's, and BOS where it is none of them.

    With ``normalise`` they are matched under :func:`n2g_assets.method.tokens.normalise`, else as they are.
    """
    known = _token_bytes(tokenizer.backend)
    tokens = [known.get(token_id) for token_id in range(d_vocab)]
    forms = [  # an id without text gets one that no other token has: 0xFF occurs in no UTF-8
        b"\xff<unused %d>" % token_id if token is None else normalised_form(token) if normalise else token
        for token_id, token in enumerate(tokens)
    ]
    if bos_id == d_vocab:
        tokens.append(_BEGINNING)
        forms.append(b"\xff" + _BEGINNING)
    return _vocabulary([token or b"" for token in tokens], forms, bos_id, mask_id)


def vocabulary_rows(vocabulary: Vocabulary) -> pl.DataFrame:
    """The vocabulary as rows of the table ``vocabulary``: token_id, token, normalised, text."""
    forms = [vocabulary.forms[index] for index in vocabulary.form_of.tolist()]
    texts = [display_text(token or form) for token, form in zip(vocabulary.tokens, forms, strict=True)]
    return pl.DataFrame(
        {"token_id": range(len(forms)), "token": vocabulary.tokens, "normalised": forms, "text": texts},
        schema={"token_id": pl.Int32, "token": pl.Binary, "normalised": pl.Binary, "text": pl.String},
    )


def vocabulary_from_rows(rows: pl.DataFrame, *, bos_id: int, mask_id: int) -> Vocabulary:
    """The vocabulary from its rows, in any order."""
    rows = rows.sort("token_id")
    return _vocabulary(rows["token"].to_list(), rows["normalised"].to_list(), bos_id, mask_id)


def _vocabulary(tokens: list[bytes], forms: list[bytes], bos_id: int, mask_id: int) -> Vocabulary:
    index = {form: i for i, form in enumerate(dict.fromkeys(forms))}
    form_of = np.fromiter((index[form] for form in forms), np.int32, len(forms))
    return Vocabulary(tuple(tokens), tuple(index), form_of, bos_id, mask_id)


def _token_bytes(backend: Tokenizer) -> dict[int, bytes]:
    """The bytes of every token id that the tokenizer knows."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    specification = json.loads(backend.to_str())
    steps = json.dumps([specification[part] for part in ("normalizer", "pre_tokenizer", "decoder")], ensure_ascii=False)
    spell: Callable[[str], bytes]
    if '"type": "ByteLevel"' in steps:
        spell = partial(_byte_level, {character: byte for byte, character in bytes_to_unicode().items()})
    elif any(sign in steps for sign in ('"type": "ByteFallback"', '"type": "Metaspace"', f'"{_SPACE}"')):
        spell = _sentencepiece
    else:
        spell = str.encode
    tokens = {token_id: spell(text) for text, token_id in backend.get_vocab(with_added_tokens=True).items()}
    added = backend.get_added_tokens_decoder()
    return tokens | {token_id: token.content.encode() for token_id, token in added.items()}


def _byte_level(byte_of: Mapping[str, int], text: str) -> bytes:
    if all(character in byte_of for character in text):
        return bytes(byte_of[character] for character in text)
    return text.encode()


def _sentencepiece(text: str) -> bytes:
    if match := _BYTE_TOKEN.fullmatch(text):
        return bytes([int(match[1], 16)])
    return text.replace(_SPACE, " ").encode()
