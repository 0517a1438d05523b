"""Which runs and pairs of the harvest's tokens stand where in a text: found once, for all units of a layer.

A baseline that counts is then a column of numbers: for each run or pair that the harvest has, the mean of one unit.
Nothing reaches over BOS. An index remembers what it has found in a text for as long as the text is in use.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
from jaxtyping import Int32, Int64

from n2g_assets.evidence.suffixes import Suffixes
from n2g_assets.method.text import EncodedText

FARTHEST = 8
"""Tokens between a token and the farthest earlier one that it is paired with."""

_Keys = Int64[np.ndarray, " n"]
_Numbers = Int32[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class SuffixIndex:
    """Runs of the last tokens, numbered in the harvest and looked up in other texts."""

    harvest: EncodedText
    symbols: Literal["token_ids", "forms"]
    """What makes two tokens the same."""
    suffixes: Suffixes
    """The runs of the harvest's symbols; those that hold BOS among them."""
    _found: WeakKeyDictionary[EncodedText, Int32[np.ndarray, "lengths tokens"]] = field(
        default_factory=WeakKeyDictionary, repr=False
    )

    def numbers(self, text: EncodedText) -> Int32[np.ndarray, "lengths tokens"]:
        """The run of 1, 2, .. tokens that ends at each token of a text; -1 where the harvest has no such run.

        What stands in row k-1 at a position below k, where a run of k would hold BOS, has no meaning.
        """
        if text is self.harvest:
            return self.suffixes.numbers
        if text not in self._found:
            self._found[text] = self._find(text)
        return self._found[text]

    def _find(self, text: EncodedText) -> Int32[np.ndarray, "lengths tokens"]:
        symbols, found = getattr(text, self.symbols), np.full((len(self._keys), len(text)), -1, np.int32)
        tokens, shorter = np.flatnonzero(text.positions > 0), np.zeros(0)
        for back, keys in enumerate(self._keys):
            if back:
                going_on = (shorter >= 0) & (text.positions[tokens] > back)
                tokens, shorter = tokens[going_on], shorter[going_on]
            shorter = _places(keys, _key(shorter if back else 0, symbols[tokens - back]))
            found[back, tokens] = shorter
        found.flags.writeable = False  # as the harvest's own numbers, so that compiled loops are compiled once
        return found

    @cached_property
    def _keys(self) -> list[_Keys]:
        """By length, the key of every run: the run without its first symbol, and that symbol; ascending."""
        symbols, keys = getattr(self.harvest, self.symbols), []
        for back, (count, numbers) in enumerate(zip(self.suffixes.counts, self.suffixes.numbers, strict=True)):
            first, ends = np.empty(count, np.int32), np.flatnonzero(numbers >= 0)
            first[numbers[ends]] = symbols[ends - back]
            keys.append(_key(self.suffixes.parents[back] if back else 0, first))
        return keys


@dataclass(frozen=True, eq=False)
class PairIndex:
    """Pairs of a token and one earlier token, 1 to ``FARTHEST`` tokens before it, told apart by their forms."""

    harvest: EncodedText
    _found: WeakKeyDictionary[EncodedText, Int32[np.ndarray, "distances tokens"]] = field(
        default_factory=WeakKeyDictionary, repr=False
    )

    def numbers(self, text: EncodedText) -> Int32[np.ndarray, "distances tokens"]:
        """The pair that each token of a text makes with the one so far before it; -1 where the harvest has none.

        Pairs are numbered through all distances.
        """
        if text is self.harvest:
            return self._of_harvest[1]
        if text not in self._found:
            self._found[text] = np.full((FARTHEST, len(text)), -1, np.int32)
            for row, (distance, (first, known)) in zip(self._found[text], enumerate(self._keys, 1), strict=True):
                tokens, keys = _pairs(text, distance)
                places = _places(known, keys)
                row[tokens] = np.where(places >= 0, places + first, -1)
        return self._found[text]

    @cached_property
    def forms(self) -> Int32[np.ndarray, " pairs"]:
        """The form of each pair's later token."""
        return np.concatenate([keys >> 32 for _, keys in self._keys]).astype(np.int32)

    @property
    def _keys(self) -> list[tuple[int, _Keys]]:
        """By distance, the number of the first pair, and the keys of all, ascending."""
        return self._of_harvest[0]

    @cached_property
    def _of_harvest(self) -> tuple[list[tuple[int, _Keys]], Int32[np.ndarray, "distances tokens"]]:
        keys, numbers, first = [], np.full((FARTHEST, len(self.harvest)), -1, np.int32), 0
        for row, distance in zip(numbers, range(1, FARTHEST + 1), strict=True):
            tokens, there = _pairs(self.harvest, distance)
            different, places = np.unique(there, return_inverse=True)
            row[tokens] = places + first
            keys.append((first, different))
            first += len(different)
        return keys, numbers


def _pairs(text: EncodedText, distance: int) -> tuple[Int64[np.ndarray, " n"], _Keys]:
    """The tokens that have one so far before them that is not BOS, and the key of the pair of their forms."""
    tokens = np.flatnonzero(text.positions > distance)
    return tokens, _key(text.forms[tokens], text.forms[tokens - distance])


def _key(high: _Numbers | int, low: _Numbers) -> _Keys:
    """Two numbers of 31 bits in one."""
    return (np.asarray(high, np.int64) << 32) | low


def _places(known: _Keys, keys: _Keys) -> _Numbers:
    """Where each key stands among the ascending known ones; -1 where it does not."""
    if not len(known):
        return np.full(len(keys), -1, np.int32)
    places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    return np.where(known[places] == keys, places, -1).astype(np.int32)
