"""Seconds that the scores of one unit take, over the 1.5 that they may, on a made-up harvest as large as a study's.

Nothing is read from disk and no model runs: fits, thresholds, predictions, scores and intervals are what is measured,
in processor time; of the method ``evidence`` also the graphs that are grown without a fold, but not the graphs that
are scored. The paper's graphs are empty. What is done once for a study stands apart. Tokens follow Zipf's law; a unit
fires on a few tokens after a few others.

    python benchmarks/unit_scores.py                        # both methods
    python benchmarks/unit_scores.py --tokens 2000000 --units 4
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import numpy as np
import polars as pl

from n2g_assets.core.home import Home
from n2g_assets.core.registry import PREDICTORS, Method, of_study
from n2g_assets.core.settings import MethodSettings, ScoreSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.evaluate import evaluate_units
from n2g_assets.evaluation.harvest import HarvestText
from n2g_assets.evaluation.material import UNIT_INPUTS, LayerMaterial, SharedMaterial
from n2g_assets.evaluation.texts import DocumentText
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.suffixes import suffix_numbers
from n2g_assets.method.class_graphs import build_class_graphs
from n2g_assets.method.probing import Vocabulary
from n2g_assets.method.results import unit_frame
from n2g_assets.storage.cache import Cache

GOAL = 1.5
"""Seconds a unit."""
WORDS = 49_152
CONTEXT, DOCUMENT = 128, 1_024
"""Tokens of a context and of a document."""


def contexts_of(generator: np.random.Generator, tokens: int, split: str) -> pl.DataFrame:
    """Contexts of made-up documents."""
    count = tokens // CONTEXT
    ids = 1 + np.minimum(generator.zipf(1.2, (count, CONTEXT)), WORDS - 2)
    ids[:, 0] = 0
    documents = [f"{split}{number * CONTEXT // DOCUMENT:06d}" for number in range(count)]
    names = [f"{document}:{number:06d}" for number, document in enumerate(documents)]
    return pl.DataFrame(
        {"context_id": names, "document_id": documents, "token_ids": ids.astype(np.int32).tolist()},
        schema_overrides={"token_ids": pl.List(pl.Int32)},
    )


def activations_of(seed: int, contexts: pl.DataFrame) -> np.ndarray:
    """What a unit does: a value for each token, more after some of the others, and noise."""
    generator = np.random.default_rng(seed)
    alone, after = generator.normal(0, 0.1, WORDS), generator.random(WORDS) < 0.02
    alone[generator.integers(20, 2_000, 40)] += 1
    ids = contexts["token_ids"].explode().to_numpy()
    value = alone[ids] * (1 + after[np.roll(ids, 1)] + after[np.roll(ids, 2)])
    return (value + generator.normal(0, 0.05, len(ids))).astype(np.float32)


def examples_of(unit: Unit, contexts: pl.DataFrame, row: np.ndarray) -> pl.DataFrame:
    """The unit's twenty strongest contexts, every other one on the test side."""
    windows = row.reshape(-1, CONTEXT)
    best = np.argsort(-windows[:, 1:].max(1))[:20]
    chosen = contexts[best].rows(named=True)
    return unit_frame("top_examples", [
        {
            **unit.key(), **context, "rank": rank, "peak": int(windows[number, 1:].argmax()) + 1,
            "split": ("train", "test")[rank % 2], "activation": float(windows[number, 1:].max()),
            "activations": windows[number],
        }
        for rank, (number, context) in enumerate(zip(best, chosen, strict=True))
    ])  # fmt: skip


def made_up_layer(tokens: int, n_units: int, preset: Method, folder: Path) -> tuple[LayerMaterial, list[Unit]]:
    """A layer of units with a harvest of so many tokens, and held-out texts as long as a study's."""
    generator, scores, method = np.random.default_rng(0), ScoreSettings(), MethodSettings()
    words = tuple(str(word).encode() for word in range(WORDS))
    vocabulary = Vocabulary(words, words, np.arange(WORDS, dtype=np.int32), bos_id=0, mask_id=1)
    harvested = contexts_of(generator, tokens, "d")
    held_out = {
        "random": contexts_of(generator, scores.random_tokens, "h"),
        "out_of_domain": contexts_of(generator, scores.out_of_domain_tokens, "o"),
    }
    units = [Unit(number, 1) for number in range(n_units)]
    rows = {unit: activations_of(unit.number, harvested) for unit in units}
    corpus = TokenCorpus.from_frame(harvested)
    harvest = HarvestText(
        DocumentText.of(harvested, vocabulary), {},
        lambda symbols: suffix_numbers(replace(corpus, token_ids=symbols), Cache(Home(folder))), method.class_offsets,
    )  # fmt: skip
    tables = {table: unit_frame(table, []) for table in UNIT_INPUTS}
    tables["top_examples"] = pl.concat([examples_of(unit, harvested, row) for unit, row in rows.items()])
    a_max = {unit: float(row.reshape(-1, CONTEXT)[:, 1:].max()) for unit, row in rows.items()}
    if preset == "evidence":
        tables |= build_class_graphs(
            units, tables, a_max, method, text=harvest.lagged, read=rows.__getitem__, without=harvest.without,
            vocabulary=vocabulary, threads=1,
        ).tables  # fmt: skip
    material = LayerMaterial(
        SharedMaterial(vocabulary, lambda: harvest, method, preset, scores.seed), layer=0, rows=tables, a_max=a_max,
        texts={name: DocumentText.of(contexts, vocabulary) for name, contexts in held_out.items()},
        read=lambda name, unit: activations_of(unit.number, held_out[name]), read_harvest=rows.__getitem__,
        partners={}, evaluation=scores,
        predictors=[predictor.name for predictor in of_study(PREDICTORS, "full", preset)],
    )  # fmt: skip
    return material, units


def seconds(material: LayerMaterial, units: list[Unit]) -> float:
    """Of processor time."""
    began = time.process_time()
    found = evaluate_units(units, material)
    assert {outcome.status for outcome in found.ledger.values()} == {"ok"}
    return time.process_time() - began


def measure(tokens: int, n_units: int, preset: Method) -> float:
    """Seconds a unit; says so, and what is done once."""
    with TemporaryDirectory() as folder:
        seconds(*made_up_layer(20_000, 1, preset, Path(folder)))  # compiles
        material, units = made_up_layer(tokens, n_units + 1, preset, Path(folder))
        first, each = seconds(material, units[:1]), seconds(material, units[1:]) / n_units
    print(f"{preset}: {each:.2f} s a unit, {first - each:.1f} s once, {tokens:,} tokens harvested", flush=True)
    return each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=460_000)
    parser.add_argument("--units", type=int, default=8)
    options = parser.parse_args()
    worst = max(measure(options.tokens, options.units, preset) for preset in get_args(Method))
    print(f"scores of a unit over {GOAL} s: {worst / GOAL:.2f}")


if __name__ == "__main__":
    main()
