"""The only questions that the method asks a model, as protocols; the room ``model`` implements them.

A *unit* is a neuron with a sign, a *probe* is a prompt and a unit, and its answer is the unit's activation at every
position of the prompt. Prompts are token ids with BOS at position 0; what stands at position 0 is never used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int32

from n2g_assets.core.units import Unit


@runtime_checkable
class Prober(Protocol):
    """Answers probes for the units of one layer."""

    layer: int

    @property
    def full_batch_tokens(self) -> int:
        """Tokens that use the machine fully: a call with fewer takes hardly less time."""
        ...

    def activations(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], units: Sequence[Unit]
    ) -> list[Float32[np.ndarray, " length"]]:
        """Activation of ``units[i]`` (times its sign) at every position of ``prompts[i]``, in the order given.

        One call takes the prompts of all units; the prober batches them by length. Activations are float32 and not
        normalised.
        """
        ...


@dataclass(frozen=True)
class Substitute:
    """One or more tokens that may replace a token."""

    text: str
    """Readable text."""
    token_ids: tuple[int, ...]
    """Its token ids in the subject model's vocabulary."""


class Proposer(Protocol):
    """Proposes substitutes for tokens of prompts, best first."""

    name: str

    def propose(
        self, prompts: Sequence[Int32[np.ndarray, " length"]], positions: Sequence[Sequence[int]]
    ) -> list[list[list[Substitute]]]:
        """The substitutes for each prompt and each of its asked positions, best first; never the original token.

        ``answer[i][j]`` is for ``prompts[i]`` at ``positions[i][j]``. It may be empty. It is longer than the number of
        substitutes that are wanted, since those that equal the original after normalisation do not count.
        """
        ...


@dataclass(frozen=True)
class Vocabulary:
    """The subject model's tokens and the forms under which a graph matches them."""

    tokens: tuple[bytes, ...]
    """Exact bytes of every token id."""
    forms: tuple[bytes, ...]
    """The different forms; without normalisation these are the tokens' own bytes."""
    form_of: Int32[np.ndarray, " d_vocab"]
    """Index into ``forms`` for every token id: two tokens match when theirs are equal."""
    bos_id: int
    """Token id that stands at position 0 of every context."""
    mask_id: int
    """Token id that masks another in saliency."""

    @cached_property
    def form_ids(self) -> dict[bytes, int]:
        """Index of every form."""
        return {form: index for index, form in enumerate(self.forms)}

    def form(self, token_id: int) -> bytes:
        """The form, as bytes, under which a token id is matched."""
        return self.forms[self.form_of[token_id]]
