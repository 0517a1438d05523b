"""The subject model's tokenizer: text to token ids, and which ids stand for BOS and for the mask.

Activations belong to token ids, so the package encodes once and works on ids from there on.
"""

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
class SubjectTokenizer:
    """A fast tokenizer that adds no special tokens and reads those written in a text as text."""

    transformers: Any
    """The transformers tokenizer, which knows the special tokens."""
    backend: Tokenizer
    """A copy of its ``tokenizers`` backend, set up for documents."""

    @classmethod
    def load(cls, folder: Path) -> "SubjectTokenizer":
        """The tokenizer of a model folder.

        Raises:
            SourceError: There is none, it is damaged, or it has no fast form.
        """
        from transformers import AutoTokenizer

        with loading(f"The tokenizer in {folder}", "put its tokenizer.json there anew"):
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = True
        return cls(tokenizer, backend)

    def encode(self, texts: Sequence[str]) -> list[Int32[np.ndarray, " length"]]:
        """Token ids of each text, without BOS or any other special token."""
        encodings = self.backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, dtype=np.int32) for encoding in encodings]

    def bos_id(self, d_vocab: int) -> int:
        """The tokenizer's BOS, else its end of sequence, else end of text.

        Raises:
            SubjectError: The tokenizer has none of them.
        """
        token = self.transformers
        for token_id in (token.bos_token_id, token.eos_token_id, self.backend.token_to_id(END_OF_TEXT)):
            if token_id is not None and token_id < d_vocab:
                return int(token_id)
        raise SubjectError(
            f"The tokenizer has neither BOS nor end of sequence nor {END_OF_TEXT}, and every context starts with one: "
            "name a bos_token in its tokenizer_config.json."
        )

    def mask_id(self, mask_token: str, d_vocab: int) -> int:
        """Token id of the mask: of the text of one token, or with ``auto`` end of text, else padding, else BOS.

        Raises:
            SettingsError: The text is not one token.
        """
        if mask_token == "auto":
            for token_id in (self.backend.token_to_id(END_OF_TEXT), self.transformers.pad_token_id):
                if token_id is not None and token_id < d_vocab:
                    return int(token_id)
            return self.bos_id(d_vocab)
        known = self.backend.token_to_id(mask_token)
        ids = self.encode([mask_token])[0].tolist() if known is None else [known]
        if len(ids) != 1:
            raise SettingsError(
                f"method.mask_token {mask_token!r} is {len(ids)} tokens of this model: give the text of one, or auto."
            )
        if ids[0] >= d_vocab:
            raise SettingsError(f"method.mask_token {mask_token!r} is no token of this model: give another, or auto.")
        return ids[0]
