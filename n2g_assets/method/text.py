"""Text as predictors read it: contexts joined end to end, as forms, with an index of where each form stands."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32, Int64

from n2g_assets.method.probing import Vocabulary


@dataclass(frozen=True, eq=False)
class EncodedText:
    """Contexts joined end to end, BOS included."""

    token_ids: Int32[np.ndarray, " tokens"]
    """Token id of every token."""
    forms: Int32[np.ndarray, " tokens"]
    """Index into ``Vocabulary.forms`` of every token."""
    positions: Int32[np.ndarray, " tokens"]
    """Position of every token in its context: 0 is BOS, which nothing matches and no walk reaches."""
    by_form: Int64[np.ndarray, " matched"]
    """The tokens, BOS left out, ordered by form and then as they stand."""
    starts: Int64[np.ndarray, " forms+1"]
    """``by_form[starts[f]:starts[f + 1]]`` are the tokens of form f."""

    @classmethod
    def from_contexts(cls, contexts: Sequence[Int[np.ndarray, " length"]], vocabulary: Vocabulary) -> "EncodedText":
        """The text of contexts, given their token ids with BOS at position 0."""
        lengths = [len(context) for context in contexts]
        token_ids = np.concatenate([np.zeros(0, np.int32), *contexts]).astype(np.int32)
        positions = np.concatenate([np.zeros(0, np.int32), *(np.arange(length, dtype=np.int32) for length in lengths)])
        return cls.from_forms(vocabulary.form_of[token_ids], positions, len(vocabulary.forms), token_ids)

    @classmethod
    def from_forms(
        cls,
        forms: Int32[np.ndarray, " tokens"],
        positions: Int32[np.ndarray, " tokens"],
        n_forms: int,
        token_ids: Int32[np.ndarray, " tokens"] | None = None,
    ) -> "EncodedText":
        """The text of tokens whose forms and positions are known; without ids each form is its own token."""
        inside = np.flatnonzero(positions > 0)
        narrow = np.uint16 if n_forms <= 2**16 else np.uint32  # NumPy sorts 16 bits six times faster
        by_form = inside[np.argsort(forms[inside].astype(narrow), kind="stable")]
        starts = np.concatenate([[0], np.cumsum(np.bincount(forms[inside], minlength=n_forms))])
        forms = forms.astype(np.int32)
        token_ids = forms if token_ids is None else token_ids.astype(np.int32)
        return cls(token_ids, forms, positions.astype(np.int32), by_form, starts.astype(np.int64))

    @property
    def n_forms(self) -> int:
        """Number of forms of the vocabulary."""
        return len(self.starts) - 1

    def __len__(self) -> int:
        return len(self.forms)
