"""Stage ``top_examples``: the contexts that a graph is built from and tested on (paper section 3.1).

1. A unit whose a_max is not positive is dead.
2. Take the strongest contexts that the harvest kept with a peak above 0: each context once, at most
   ``contexts_per_document`` a document.
3. Split at random, seeded by the study's seed and the unit: contexts of one document and of its near-duplicates stay on
   one side, and both sides are as equal as the documents allow; the larger is for training. A unit with too few
   contexts on a side gets no graph.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from n2g_assets.core.errors import RowsError
from n2g_assets.core.settings import TopExampleSettings
from n2g_assets.core.units import Unit, of_units
from n2g_assets.method.results import BlockResult, Outcome, finish_block, rows_by_unit, unit_frame


def choose_top_examples(
    units: Sequence[Unit],
    top_contexts: pl.DataFrame,
    contexts: pl.DataFrame,
    a_max: Mapping[Unit, float],
    layer: int,
    settings: TopExampleSettings,
    cluster_of: Mapping[str, str] | None = None,
) -> BlockResult:
    """Chooses and splits the top examples of a block of units of a layer; other units' rows are ignored.

    ``cluster_of`` holds, by document id, the id of its near-duplicates; without it each document stands alone.

    Returns:
        Table ``top_examples`` and a ledger entry for every unit: ``dead`` where a_max is not positive,
        ``too_few_contexts`` with both counts, ``failed`` where a_max or an activation is not finite.

    Raises:
        RowsError: ``contexts`` lacks a context that ``top_contexts`` names, or that has no activations there.
    """
    unusual = {}
    for unit in units:
        if not np.isfinite(a_max[unit]):
            reason = "Its largest activation is not finite: check the subject model for overflow."
            unusual[unit] = Outcome("failed", reason)
        elif a_max[unit] <= 0:
            reason = f"Its largest activation over the harvest is {a_max[unit]:.3g}, which is not positive."
            unusual[unit] = Outcome("dead", reason)
    alive = [unit for unit in units if unit not in unusual]
    chosen = rows_by_unit(alive, _choose(alive, top_contexts, contexts, settings))
    rows: list[dict[str, Any]] = []
    for unit in alive:
        examples = chosen[unit]
        clusters = [(cluster_of or {}).get(row["document_id"], row["document_id"]) for row in examples]
        sides = split_documents(clusters, settings.seed, layer, unit)
        n_train = sides.count("train")
        if min(n_train, len(sides) - n_train) < settings.min_contexts_per_side:
            unusual[unit] = Outcome(
                "too_few_contexts",
                f"{len(sides)} contexts with a positive activation, from {len(set(clusters))} documents without "
                f"near-duplicates, give {n_train} train and {len(sides) - n_train} test contexts; each side needs "
                f"{settings.min_contexts_per_side}.",
            )
            continue
        rows += (row | {"rank": rank, "split": sides[rank]} for rank, row in enumerate(examples))
    return finish_block(units, {"top_examples": unit_frame("top_examples", rows)}, unusual)


def split_documents(document_ids: Sequence[str], seed: int, layer: int, unit: Unit) -> list[str]:
    """The side, ``train`` or ``test``, of every context, given its document.

    The documents are shuffled by a generator seeded from seed, layer, unit and sign. Then each goes to the train side
    if the documents after it can still fill that side to its best size, which is the number of contexts nearest to one
    half (of two equally near, the larger).
    """
    documents = sorted(set(document_ids))
    generator = np.random.default_rng(np.random.SeedSequence([seed % 2**63, layer, unit.number, int(unit.sign < 0)]))
    shuffled = [documents[index] for index in generator.permutation(len(documents))]
    sizes = [document_ids.count(document) for document in shuffled]
    reachable = [1]  # bit n of reachable[i]: the last i documents can give n train contexts
    for size in reversed(sizes):
        reachable.append(reachable[-1] | reachable[-1] << size)
    total = len(document_ids)
    sums = [n for n in range(total + 1) if reachable[-1] >> n & 1]
    missing = min(sums, key=lambda n: (abs(2 * n - total), -n))
    side = {}
    for n_seen, (document, size) in enumerate(zip(shuffled, sizes, strict=True), start=1):
        fits = missing >= size and reachable[len(sizes) - n_seen] >> (missing - size) & 1
        side[document] = "train" if fits else "test"
        missing -= size if fits else 0
    return [side[document] for document in document_ids]


def _choose(
    units: Sequence[Unit], top_contexts: pl.DataFrame, contexts: pl.DataFrame, settings: TopExampleSettings
) -> pl.DataFrame:
    """The rows of ``top_contexts`` that step 2 takes, joined with their contexts, strongest first within a unit."""
    unit_key = ["unit", "sign"]
    strong = (
        top_contexts.filter(of_units(units), pl.col("activation") > 0)
        .select(*unit_key, "rank", "context_id", "peak", "activation", "activations")
        .sort(*unit_key, "rank")
        .unique([*unit_key, "context_id"], keep="first", maintain_order=True)
    )
    known = contexts.join(strong, on="context_id", how="semi").select("context_id", "document_id", "token_ids")
    joined = strong.join(known, on="context_id", how="left", maintain_order="left")
    if joined["document_id"].null_count():
        missing = joined.filter(pl.col("document_id").is_null())["context_id"][0]
        raise RowsError(
            f"Table top_contexts names context {missing}, which table contexts lacks: the two are of different "
            "corpora, so make both again from one corpus."
        )
    if joined["activations"].null_count():
        raise RowsError("Table top_contexts lacks activations, as an older version wrote it: make it again.")
    in_document = pl.int_range(pl.len()).over([*unit_key, "document_id"])
    in_unit = pl.int_range(pl.len()).over(unit_key)
    return joined.filter(in_document < settings.contexts_per_document).filter(in_unit < settings.top_contexts)
