"""Names of token classes that a simple property describes, such as numbers or line ends.

A property is a regular expression. It names a class if nearly all of the class has it and most other tokens lack it:
share inside against share outside.
"""

import keyword
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64, Int32, Int64

PROPERTIES = {
    "line ends": r"[\n\r]",
    "spaces": r"^\s+$",
    "numbers": r"^ ?\p{Nd}+$",
    "code keywords": rf"^ ?(?:{'|'.join(keyword.kwlist)})$",
    "punctuation": r"^\s*[\p{P}\p{S}]+\s*$",
    "all capitals": r"^ ?\p{Lu}{2,}$",
    "capitals": r"^ ?\p{Lu}",
    "after a space": r"^ ",
    "parts of words": r"^\p{Ll}",
}
"""By name the regular expression, in Rust's dialect, of tokens that have the property; the most special first."""

INSIDE, APART = 0.85, 0.5
"""A property names a class that has at least the first share of it, and more than the tokens outside by the second."""

FEWEST = 3
"""A smaller class has no name: its tokens say it all."""


class Properties(NamedTuple):
    """Which tokens of a vocabulary have which of ``PROPERTIES``."""

    has: Bool[np.ndarray, "properties vocabulary"]
    tokens: Int64[np.ndarray, " properties"]
    """How many tokens have each."""


@lru_cache(maxsize=4)
def token_properties(vocabulary: tuple[bytes, ...]) -> Properties:
    """Which tokens have which of ``PROPERTIES``; many pictures ask it of one vocabulary."""
    texts = pl.Series([token.decode(errors="replace") for token in vocabulary], dtype=pl.String)
    has = np.array([texts.str.contains(property_).to_numpy() for property_ in PROPERTIES.values()])
    return Properties(has, has.sum(axis=1))


def class_name(
    tokens: Int32[np.ndarray, " members"],
    weights: Float64[np.ndarray, " members"],
    properties: Properties,
) -> str | None:
    """The first of ``PROPERTIES`` that describes a class.

    Args:
        tokens: token ids of the class.
        weights: how much each matters. The share inside is by weight or by number of tokens, whichever is smaller, so
            that neither one strong token nor many weak ones give a name.
        properties: what ``token_properties`` says of the vocabulary.
    """
    if len(tokens) < FEWEST or not weights.sum() > 0:
        return None
    has = properties.has[:, tokens]
    inside = np.minimum(has.mean(axis=1), has @ (weights / weights.sum()))
    others = max(1, properties.has.shape[1] - len(tokens))
    outside = (properties.tokens - has.sum(axis=1)) / others
    fits = (inside >= INSIDE) & (inside - outside >= APART)
    return list(PROPERTIES)[int(fits.argmax())] if fits.any() else None
