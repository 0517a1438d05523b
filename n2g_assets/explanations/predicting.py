"""Functions that predict the activations of a unit, token by token; run on each context of a text, once a unit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from n2g_assets.core.errors import SourceError
from n2g_assets.corpus.functions import shown_value
from n2g_assets.corpus.user_code import UserFunction
from n2g_assets.explanations.predictions import contexts_of
from n2g_assets.method.text import EncodedText


class ExplainedUnit(NamedTuple):
    """What a function is told of the unit that it predicts."""

    layer: int
    unit: int
    sign: int
    texts: Sequence[str]
    """Its explanations in words, where the study names a file of them."""


@dataclass(frozen=True)
class FunctionPredictions:
    """What a function predicts of one unit."""

    user: UserFunction
    function: Callable[..., Any]
    unit: ExplainedUnit
    tokens: Sequence[bytes]
    """The tokens of the vocabulary."""
    scale: float
    from_outside: bool = True
    _known: dict[bytes, Float32[np.ndarray, " length"]] = field(default_factory=dict, repr=False)

    def predict(self, text: EncodedText) -> Float32[np.ndarray, " tokens"]:
        """Predicted normalised activation of every token; 0 at BOS.

        Raises:
            SourceError: The function fails, or does not give a finite number for each token.
        """
        predicted = np.zeros(len(text), np.float32)
        for context in contexts_of(text):
            token_ids = text.token_ids[context]
            key = token_ids.tobytes()
            if key not in self._known:
                self._known[key] = self._values(token_ids[1:].tolist()) / self.scale
            predicted[context.start + 1 : context.stop] = self._known[key]
        return predicted

    def _values(self, token_ids: list[int]) -> Float32[np.ndarray, " length"]:
        layer, unit, sign, _ = self.unit
        what = f"The {self.user}, asked about unit {unit}{'' if sign > 0 else ' of sign -1'} of layer {layer},"
        tokens = [self.tokens[token].decode("utf-8", "replace") for token in token_ids]
        try:
            given = self.function(self.unit, tokens)
            try:
                values = np.asarray(given, np.float64)
            except (TypeError, ValueError):
                values = np.full(1, np.nan) if len(tokens) != 1 else np.zeros(0)
        except (Exception, SystemExit) as error:  # whatever code of the user raises
            raise SourceError(f"{what} fails with {self.user.said(error)}: repair it or its 'arguments'.") from error
        if values.shape != (len(tokens),):
            raise SourceError(
                f"{what} gives {shown_value(given)} for {len(tokens)} tokens: let it give a number for each of them."
            )
        if not np.isfinite(values).all():
            place = int(np.flatnonzero(~np.isfinite(values))[0])
            raise SourceError(
                f"{what} gives {values[place]} for token {place} (counted from 0): let it give finite numbers."
            )
        return values.astype(np.float32)
