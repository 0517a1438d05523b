"""Asset checks: what must hold of what a stage has just written.

Those of the scores stand in ``score_checks``. A check is a function of a session and, where its asset has layers, of a
layer; it returns a sentence for each fault. It runs in the step of its asset.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import polars as pl

from n2g_assets.assets.check_kinds import Check
from n2g_assets.assets.score_checks import SCORE_CHECKS
from n2g_assets.assets.session import Session
from n2g_assets.core.registry import STAGES, named
from n2g_assets.core.tables import TABLES
from n2g_assets.corpus.splitting import find_leaks
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.hashing import hash_json

_SAMPLED_UNITS = 3
_SAMPLED_CONTEXTS = 2
_TOLERANCE = 1e-4
"""Share of a_max within which a recomputed activation must lie."""

_EVERY_UNIT_HAS_ROWS = {"neuron_stats", "top_examples", "pruned_examples", "graph_nodes", "rules", "evaluation"}


# -------------------------------------------------------------------------------------------- per layer
def rows_are_sound(stage: str, session: Session, layer: int) -> list[str]:
    """Faults of the rows of every table that a stage writes."""
    tables = named(STAGES)[stage].tables
    return [sentence for table in tables for sentence in _table_faults(session, stage, table, layer)]


def _table_faults(session: Session, stage: str, table: str, layer: int) -> list[str]:
    schema = TABLES[table]
    faults = []
    keys = session.read(table, layer, columns=schema.key)
    if keys.select(pl.struct(schema.key).is_duplicated().any()).item():
        faults.append(f"{table} repeats a key")
    for column, dtype in schema.schema.items():
        if dtype.is_float() or (isinstance(dtype, pl.List) and dtype.inner.is_float()):
            values = session.read(table, layer, columns=[column])[column]  # one column is in memory at a time
            if (values if dtype.is_float() else values.explode()).is_nan().any():
                faults.append(f"{table}.{column} holds NaN")
    ledger = session.read("ledger", layer, part=stage)
    listed = {(row["unit"], row["sign"]): row["status"] for row in ledger.iter_rows(named=True)}
    asked = {tuple(unit) for unit in session.units(layer)}
    if set(listed) != asked:
        faults.append(f"the ledger of {stage} names {len(listed)} units, {len(asked)} were asked for")
    there = set(keys.select("unit", "sign").unique().iter_rows())
    sound = {unit for unit, status in listed.items() if status == "ok"}
    if table in _EVERY_UNIT_HAS_ROWS and sound - there:
        faults.append(f"{table} lacks {len(sound - there)} units that the ledger calls ok")
    if stage != "activation_cache" and there - sound:
        faults.append(f"{table} holds {len(there - sound)} units that the ledger does not call ok")
    return faults


def activations_recomputed(table: str, session: Session, layer: int) -> list[str]:
    """Faults of the activations of a table; rows of the same model that were found sound before are not read again."""
    rows = hash_json([table, layer, session.manifest(table, layer).content_hash, session.model_hash])
    cache = Cache(session.home)
    if cache.find("checked", rows) is not None:
        return []
    faults = _recompute_faults(session, table, layer)
    if not faults:
        cache.write("checked", rows, lambda folder: None, {"table": table, "layer": layer})
    return faults


def _recompute_faults(session: Session, table: str, layer: int) -> list[str]:
    units = session.units(layer)
    rng = np.random.default_rng(np.random.SeedSequence([layer, len(units)]))
    chosen = [units[i] for i in rng.permutation(len(units))[:_SAMPLED_UNITS]]
    a_max = session.a_max(layer, chosen)
    rows = session.read(table, layer, units=chosen)
    named = session.contexts.join(rows, on="context_id", how="semi")
    contexts = dict(named.select("context_id", "token_ids").iter_rows())
    faults = []
    for unit in chosen:
        own = rows.filter(pl.col("unit") == unit.number, pl.col("sign") == unit.sign).head(_SAMPLED_CONTEXTS)
        for row in own.iter_rows(named=True):
            fresh = _plain_activations(session, layer, unit.number, contexts[row["context_id"]]) * unit.sign
            difference = abs(float(fresh[row["peak"]]) - row["activation"])
            if row["activations"] is not None:
                difference = max(difference, float(np.abs(fresh[1:] - np.asarray(row["activations"])[1:]).max()))
            if not difference <= _TOLERANCE * abs(a_max[unit]):
                faults.append(
                    f"neuron {unit.number} in {row['context_id']} differs by {difference:.1e} of a_max "
                    f"{a_max[unit]:.3g}: delete cache/harvest and slices/{table} in N2G_HOME and run again"
                )
    return faults


def _plain_activations(session: Session, layer: int, number: int, token_ids: list[int]) -> np.ndarray:
    import torch

    read: list[torch.Tensor] = []
    session.subject().run(
        torch.tensor([token_ids]), {layer: lambda activations: read.append(activations[0, :, number].float())}
    )
    return read[0].cpu().numpy()


def train_and_test_disjoint(session: Session, layer: int) -> list[str]:
    """Documents on both sides of a unit, and top examples of documents that are not harvested."""
    rows = session.read("top_examples", layer, columns=["unit", "sign", "document_id", "split"])
    documents = session.read("documents")
    clusters = rows.join(documents.select("document_id", "cluster_id"), on="document_id", how="left")
    both = clusters.group_by("unit", "sign", "cluster_id").agg(pl.col("split").n_unique()).filter(pl.col("split") > 1)
    held_out = rows.join(documents.filter(pl.col("split") != "harvest"), on="document_id", how="semi")
    faults = []
    if both.height:
        faults.append(f"{both.height} documents or near-duplicates stand in both train and test of a unit")
    if held_out.height:
        faults.append(f"{held_out.height} top examples come from documents that are not harvested")
    return faults


# -------------------------------------------------------------------------------------------- per study
def split_is_sound(session: Session) -> list[str]:
    """Faults of the split of documents into harvested and held-out ones."""
    documents, contexts = session.read("documents"), session.read("contexts")
    faults = []
    mixed = documents.filter(pl.col("split") != "out_of_domain").group_by("cluster_id").agg(pl.col("split").n_unique())
    if (mixed["split"] > 1).any():
        faults.append("near-duplicate documents stand on both sides of the split")
    joined = contexts.join(documents, on="document_id", how="left", suffix="_of_document")
    if (joined["split"] != joined["split_of_document"]).fill_null(True).any():
        faults.append("contexts and their documents name different splits")
    for held_out, harvested in find_leaks(contexts, session.settings.harvest.near_duplicate_run)[:3]:
        faults.append(
            f"the text of document {held_out}, which is not to be harvested, stands in the harvested document "
            f"{harvested}: take one of the two out of the corpus"
        )
    return faults


def model_is_sane(session: Session) -> list[str]:
    """Whether the model predicts English prose no better than chance."""
    row = session.model_row
    uniform = math.log(row["d_vocab"])
    if row["nats_per_token"] < uniform:
        return []
    return [
        f"{row['nats_per_token']:.2f} nats a token on English prose is no better than chance ({uniform:.2f}): "
        "the weights are untrained or damaged"
    ]


# -------------------------------------------------------------------------------------------- all of them
_SOUND = "Schema, keys unique and complete against the ledger, no NaN."
_RECOMPUTED = (
    "Stored activations of a sample equal those of a fresh pass of plain transformers, one context at a time without "
    "padding, within 1e-4 of a_max."
)


def _recomputed(table: str) -> Check:
    return Check("activations_recomputed", _RECOMPUTED, partial(activations_recomputed, table), blocking=True)


_OWN: dict[str, tuple[Check, ...]] = {
    "subject_model": (
        Check("model_is_sane", "The model predicts English prose better than chance.", model_is_sane, warns=True),
    ),
    "corpus_tokens": (
        Check(
            "split_is_sound",
            "Contexts and documents agree on their split, and no held-out text or near-duplicate is harvested.",
            split_is_sound, blocking=True,
        ),
    ),
    "activation_cache": (_recomputed("top_contexts"),),
    "top_examples": (
        _recomputed("top_examples"),
        Check(
            "train_and_test_disjoint",
            "No document, and no near-duplicate of one, stands on both sides of a unit, and none of them is held out.",
            train_and_test_disjoint, blocking=True,
        ),
    ),
    "evaluation": SCORE_CHECKS,
}  # fmt: skip


def checks_of(asset: str) -> tuple[Check, ...]:
    """The checks of an asset."""
    rows = [Check("rows_are_sound", _SOUND, partial(rows_are_sound, asset))] if asset in named(STAGES) else []
    return (*rows, *_OWN.get(asset, ()))
