"""Toy models for the tests of the method: numpy functions that are known to the last digit."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import polars as pl

from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.method.probing import Substitute, Vocabulary
from n2g_assets.method.tokens import normalise

BOS, MASK = 0, 1

Neuron = Callable[[np.ndarray], np.ndarray]


def vocabulary_of(words: Sequence[str]) -> Vocabulary:
    """Words from token id 2 on, after BOS and the mask token."""
    tokens = tuple(word.encode() for word in ("<bos>", "<mask>", *words))
    forms = sorted({normalise(token) for token in tokens})
    return Vocabulary(
        tokens, tuple(forms), np.array([forms.index(normalise(token)) for token in tokens], np.int32), BOS, MASK
    )


def encode(vocabulary: Vocabulary, *words: str) -> np.ndarray:
    """Token ids of BOS and the words."""
    return np.array([BOS, *(vocabulary.tokens.index(word.encode()) for word in words)], np.int32)


class ToyProber:
    """A prober whose neurons are functions of the token ids; keeps the number of prompts of every call."""

    def __init__(self, neurons: Mapping[int, Neuron], layer: int = 3, full_batch_tokens: int = 64) -> None:
        self.neurons, self.layer, self.full_batch_tokens = neurons, layer, full_batch_tokens
        self.calls: list[int] = []

    def activations(self, prompts: Sequence[np.ndarray], units: Sequence[Unit]) -> list[np.ndarray]:
        assert len(prompts) == len(units)
        assert all(prompt.dtype == np.int32 and prompt[0] == BOS for prompt in prompts)
        self.calls.append(len(prompts))
        return [
            (unit.sign * self.neurons[unit.number](prompt)).astype(np.float32)
            for prompt, unit in zip(prompts, units, strict=True)
        ]


def except_neuron(vocabulary: Vocabulary) -> Neuron:
    """Fires on " except" (and three quarters as much on " excluding") two to four tokens after "All" or "Everyone".

    Two tokens after it with 4, three with 3, four with 2; without "All" or "Everyone" there with 0.5.
    """
    strength = {vocabulary.tokens.index(b" except"): 1.0, vocabulary.tokens.index(b" excluding"): 0.75}
    subjects = [vocabulary.tokens.index(word) for word in (b"All", b" all", b"Everyone")]

    def activations(tokens: np.ndarray) -> np.ndarray:
        values = np.zeros(len(tokens))
        for position, token in enumerate(tokens):
            if token in strength:
                gaps = [gap for gap in (2, 3, 4) if gap <= position and tokens[position - gap] in subjects]
                values[position] = strength[token] * ((6 - gaps[0]) if gaps else 0.5)
        return values

    return activations


def hash_neuron(seed: int, window: int, values: Sequence[float] = (-1, 0, 0, 0.25, 0.5, 0.5, 1, 1, 2)) -> Neuron:
    """Pseudo-random activations from few values (so that ties, zeros and negative ones are common).

    Each depends on the last ``window`` tokens up to its position and on nothing else: causal, like a model.
    """

    def activations(tokens: np.ndarray) -> np.ndarray:
        tokens = tokens.astype(np.int32)
        pieces = (tokens[max(0, end - window) : end].tobytes() for end in range(1, len(tokens) + 1))
        return np.array([values[zlib.crc32(piece, seed) % len(values)] for piece in pieces])

    return activations


class DictionaryProposer:
    """Proposes from a dictionary of token ids; keeps what it was asked."""

    name = "dictionary"

    def __init__(self, words: Mapping[int, Sequence[Sequence[int]]]) -> None:
        self.words = words
        self.calls: list[int] = []

    def propose(
        self, prompts: Sequence[np.ndarray], positions: Sequence[Sequence[int]]
    ) -> list[list[list[Substitute]]]:
        self.calls.append(len(prompts))
        return [
            [
                [Substitute("+".join(map(str, ids)), tuple(ids)) for ids in self.words.get(int(prompt[position]), ())]
                for position in asked
            ]
            for prompt, asked in zip(prompts, positions, strict=True)
        ]


def conform(table: str, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame as the runner stores it; raises where it does not fit the table."""
    return TABLES[table].conform(frame.with_columns(study=pl.lit("toy"), layer=pl.lit(3)))


def top_example_rows(neurons: Mapping[int, Neuron], contexts: Mapping[Unit, Sequence[np.ndarray]]) -> pl.DataFrame:
    """Table ``top_examples`` with every context on the train side, peaks by definition; silent ones are left out."""
    rows = []
    for unit, windows in contexts.items():
        for rank, tokens in enumerate(windows):
            activations = (unit.sign * neurons[unit.number](tokens)).astype(np.float32)
            peak = 1 + int(np.argmax(activations[1:]))
            if activations[peak] > 0:
                rows.append({
                    "unit": unit.number, "sign": unit.sign, "rank": rank, "context_id": f"d{rank}:0",
                    "document_id": f"d{rank}", "peak": peak, "split": "train", "activation": float(activations[peak]),
                    "token_ids": tokens.tolist(), "activations": activations.tolist(),
                })  # fmt: skip
    schema = TABLES["top_examples"].schema
    return pl.DataFrame(rows, schema={name: schema[name] for name in schema if name not in ("study", "layer")})
