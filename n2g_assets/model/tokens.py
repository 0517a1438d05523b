"""The subject model's tokenizer: text to token ids, and which ids stand for BOS and for the mask.

Activations belong to token ids, so the package encodes once and works on ids from there on.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer

from n2g_assets.core.errors import SettingsError, SubjectError
from n2g_assets.model.folder import loading

END_OF_TEXT = "<|endoftext|>"
"""The end-of-text token of the GPT family."""


@dataclass(frozen=True)
class Bos:
    """What stands at position 0 of every context: a token, or the mere beginning of the text."""

    token_id: int
    """The first number that no token of the model has, where it is the mere beginning."""
    token: str | None
    """None where it is the mere beginning, which the model does not read."""
    reason: str
    """Why it is that one, as ``subject_models`` says it."""


@dataclass(frozen=True)
class SubjectTokenizer:
    """A fast tokenizer that adds no special tokens and reads those written in a text as text.

    So it reads added tokens for which the model has no embedding: as the text that they are written with.
    """

    transformers: Any
    """The transformers tokenizer, which knows the special tokens."""
    backend: Tokenizer
    """A copy of its ``tokenizers`` backend, set up for documents."""
    d_vocab: int
    """Tokens that the model has embeddings for."""
    bos: Bos

    @classmethod
    def load(cls, folder: Path, d_vocab: int, bos: str = "auto") -> "SubjectTokenizer":
        """The tokenizer of a model folder; ``bos`` is ``auto``, ``none`` or the text of one token.

        Raises:
            SourceError: There is none, it is damaged, or it has no fast form.
            SubjectError: It has no token that a context could begin with.
            SettingsError: ``bos`` is not one token.
        """
        from transformers import AutoTokenizer

        with loading(f"The tokenizer in {folder}", "put its tokenizer.json there anew"):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            backend = document_backend(tokenizer.backend_tokenizer.to_str(), d_vocab)
        return cls(tokenizer, backend, d_vocab, _choose_bos(tokenizer, backend, d_vocab, bos))

    def encode(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " length"]]:
        """Token ids of each text, without BOS or any other special token.

        Raises:
            SubjectError: The model has no embedding for a token of a text.
        """
        return encode_documents(self.backend, texts, self.d_vocab)

    def decode(self, token_ids: Sequence[Int32[np.ndarray, " length"]]) -> list[str]:
        """The text of each row of token ids; an id that the tokenizer lacks stands for nothing."""
        return list(self.backend.decode_batch([ids.tolist() for ids in token_ids], skip_special_tokens=False))

    @property
    def separators(self) -> frozenset[int]:
        """Ids of the tokens that stand between documents or fill rows up, where texts come as token ids."""
        known = self.transformers
        padding = known.pad_token_id if known.pad_token_id != known.unk_token_id else None
        found = (known.bos_token_id, known.eos_token_id, known.cls_token_id, known.sep_token_id, padding)
        return frozenset(each for each in (*found, self.backend.token_to_id(END_OF_TEXT)) if each is not None)

    def mask_id(self, mask_token: str) -> int:
        """Token id of the mask: of the text of one token, or with ``auto`` end of text, else padding, else BOS.

        BOS is here that of ``bos``, or where this is none, that of the tokenizer, else its end of sequence.

        Raises:
            SettingsError: The text is not one token, or the tokenizer has none of these.
        """
        if mask_token != "auto":
            return _one_token(self.backend, mask_token, "method.mask_token", self.d_vocab, "auto")
        known, chosen = self.transformers, self.bos.token_id
        first = self.backend.token_to_id(END_OF_TEXT)
        for token_id in (first, known.pad_token_id, chosen, known.bos_token_id, known.eos_token_id):
            if token_id is not None and token_id < self.d_vocab:
                return int(token_id)
        raise SettingsError(
            f"method.mask_token is auto, but the tokenizer has neither {END_OF_TEXT} nor padding nor BOS nor end of "
            f"sequence among the model's {self.d_vocab} tokens: name a token there."
        )


def document_backend(tokenizer_json: str, d_vocab: int) -> Tokenizer:
    """A tokenizer for documents from what a ``tokenizer.json`` holds, for a model with ``d_vocab`` embeddings."""
    state = json.loads(tokenizer_json)
    state["added_tokens"] = [each for each in state["added_tokens"] if each["id"] < d_vocab]
    backend = Tokenizer.from_str(json.dumps(state))
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    return backend


def encode_documents(backend: Tokenizer, texts: Sequence[str], d_vocab: int) -> list[Int32[np.ndarray, " length"]]:
    """Token ids of each text, without BOS or any other special token.

    Raises:
        SubjectError: The model has no embedding for a token of a text.
    """
    found = _encode(backend, texts)
    largest = max((int(ids.max(initial=0)) for ids in found), default=0)
    if largest >= d_vocab:
        raise SubjectError(
            f"The tokenizer gives the token {backend.id_to_token(largest)!r} the number {largest}, but the "
            f"model has embeddings for {d_vocab} tokens: put the tokenizer there that belongs to the model."
        )
    return found


def _choose_bos(tokenizer: Any, backend: Tokenizer, d_vocab: int, asked: str) -> Bos:
    if asked.lower() == "none":  # YAML's None is a text, and a token of many models
        return Bos(d_vocab, None, "the study's setting bos is none: the model reads nothing before the text")
    if asked.lower() != "auto":
        token_id = _one_token(backend, asked, "bos", d_vocab, "auto or none")
        return Bos(token_id, asked, "the study's setting bos names it")
    for what, found, lacking in (
        ("BOS", tokenizer.bos_token_id, ""),
        ("end of sequence", tokenizer.eos_token_id, ", which has no BOS"),
        ("end of text", backend.token_to_id(END_OF_TEXT), ", which has neither BOS nor end of sequence"),
    ):
        if found is not None and found < d_vocab:
            return Bos(int(found), str(backend.id_to_token(found)), f"{what} of the tokenizer{lacking}")
    raise SubjectError(
        f"The tokenizer has neither BOS nor end of sequence nor {END_OF_TEXT} among the model's {d_vocab} tokens, and "
        "every context starts with one: name a token in the study's setting bos, or set it to none."
    )


def _encode(backend: Tokenizer, texts: Sequence[str]) -> list[Int32[np.ndarray, " length"]]:
    encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]


def _one_token(backend: Tokenizer, text: str, setting: str, d_vocab: int, words: str) -> int:
    """The number of the token that a setting names, which may also be one of some ``words``.

    Raises:
        SettingsError: The text is not one token, or the model has no embedding for it.
    """
    known = backend.token_to_id(text)
    ids = _encode(backend, [text])[0].tolist() if known is None else [known]
    if len(ids) != 1:
        raise SettingsError(f"{setting} {text!r} is {len(ids)} tokens of this model: give the text of one, or {words}.")
    if ids[0] >= d_vocab:
        raise SettingsError(
            f"{setting} {text!r} is a token without an embedding in this model: give another, or {words}."
        )
    return ids[0]
