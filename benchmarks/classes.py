"""Graphs of token classes a second over scikit-learn's regression trees of as many leaves; or seconds and memory.

The library's tree splits the numbers of the tokens as if they had an order, which costs it a sort at every node and
makes worse graphs; ours puts tokens in an order of their own at every node and offset, and finds it in one half of the
positions for the other. Tokens are made up: their frequency is one over their rank, in contexts of 128. The unit likes
some of them, more so after some others, and is noisy.

With ``--tokens`` nothing is compared: it prints the seconds a unit and the peak of memory, with as many threads as
there are cores.

    python benchmarks/classes.py --tokens 10000000 --units 64
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from rows import row
from suffixes import CONTEXT, made_up

from n2g_assets.core.home import Home
from n2g_assets.core.settings import ClassSettings
from n2g_assets.method.classes import LaggedText, grow_graph

GOAL = 2.0
TOKENS, BOS, FIRING = 400_000, 0, 0.5
SETTINGS = ClassSettings()


def harvest(tokens: int) -> LaggedText:
    """Made-up contexts, four a document."""
    corpus = made_up(tokens)
    places = np.arange(tokens)
    documents = (places // (4 * CONTEXT)).astype(np.int32)
    half = np.random.default_rng(0).integers(0, 2, tokens, np.uint8)
    positions = (places % CONTEXT).astype(np.int32)
    return LaggedText.of(corpus.token_ids, positions, documents, half, SETTINGS.class_offsets)


def unit(text: LaggedText, number: int) -> Float32[np.ndarray, " tokens"]:
    """A unit's made-up activations."""
    generator = np.random.default_rng(number)
    own, before = generator.random((2, len(text.token_ids))).astype(np.float32) ** 16
    values = own[text.tokens[0]] * (0.3 + 0.7 * before[text.tokens[1]])
    return values + 0.05 * generator.standard_normal(len(values), np.float32)


def rows(home: Home) -> list[dict[str, Any]]:
    """The row of ``make bench``."""
    from sklearn.tree import DecisionTreeRegressor

    text = harvest(TOKENS)
    counted = np.flatnonzero(text.token_ids[text.tokens[0]] != BOS)
    values = unit(text, 0)
    grow_graph(text, values, counted[: TOKENS // 100], BOS, FIRING, SETTINGS)  # compiles
    began = time.perf_counter()
    grow_graph(text, values, counted, BOS, FIRING, SETTINGS)
    ours = time.perf_counter() - began
    features = np.ascontiguousarray(text.tokens[:, counted].T)
    began = time.perf_counter()
    DecisionTreeRegressor(max_leaf_nodes=SETTINGS.max_rules).fit(features, values[counted])
    return [row("graphs of classes (units/s)", 1 / ours, 1 / (time.perf_counter() - began), GOAL)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--units", type=int, default=64)
    asked = parser.parse_args()
    if asked.tokens is None:
        print(f"{rows(Home(Path()))[0]['ratio']:.2f} (goal: {GOAL})")
        return
    text = harvest(asked.tokens)
    counted = np.flatnonzero(text.token_ids[text.tokens[0]] != BOS)
    grow_graph(text, unit(text, 0), counted[: asked.tokens // 100], BOS, FIRING, SETTINGS)
    began, spent = time.perf_counter(), time.process_time()

    def grow(number: int) -> int:
        return len(grow_graph(text, unit(text, number), counted, BOS, FIRING, SETTINGS))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        nodes = sum(threads.map(grow, range(asked.units)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{asked.units} units at {asked.tokens:,} tokens: {(time.perf_counter() - began) / asked.units:.2f} s a unit, "
        f"{(time.process_time() - spent) / asked.units:.2f} s of processor time, {nodes / asked.units:.0f} nodes, "
        f"peak {peak:.2f} GiB"
    )


if __name__ == "__main__":
    main()
