"""Asset checks: what must hold of every slice, said for the layers of the run.

- ``rows_are_sound``: schema, keys unique and complete against the ledger, no NaN; on every per-layer asset.
- ``activations_recomputed`` (blocking): stored activations of a sample equal those of a fresh pass of plain
  transformers, one context at a time without padding; on ``activation_cache`` and ``top_examples``.
- ``train_and_test_disjoint`` (blocking): no document, or near-duplicate of one, stands on both sides of a unit; on
  ``top_examples``.
- ``split_is_sound`` (blocking): contexts and documents agree, near-duplicates stand on one side, and no held-out
  text stands in the harvest; on ``corpus_tokens``.
- ``model_is_sane``: the cross-entropy on English prose is that of a trained model; on ``subject_model``.

Those of the scores stand in ``score_checks``.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
import numpy as np
import polars as pl

from n2g_assets.assets.check_kinds import LayerCheck, layer_check
from n2g_assets.assets.score_checks import score_checks
from n2g_assets.assets.session import Session, Study
from n2g_assets.assets.stage import Stage
from n2g_assets.core.tables import TABLES
from n2g_assets.corpus.splitting import find_leaks
from n2g_assets.storage.files import write_atomically
from n2g_assets.storage.slices import hash_json

_SAMPLED_UNITS = 3
_SAMPLED_CONTEXTS = 2
_TOLERANCE = 1e-4
"""Share of a_max within which a recomputed activation must lie (DESIGN promise 3)."""

_STAGE_TABLES = {
    "activation_cache": ("neuron_stats", "activations", "top_contexts"),
    "top_examples": ("top_examples",),
    "pruned_examples": ("pruned_examples", "saliencies"),
    "augmented_examples": ("augmented_examples",),
    "neuron_graphs": ("graph_nodes", "rules"),
    "rule_tests": ("rule_tests",),
    "evaluation": ("evaluation", "counterexamples", "failures"),
}
_EVERY_UNIT_HAS_ROWS = {"neuron_stats", "top_examples", "pruned_examples", "graph_nodes", "rules", "evaluation"}


def study_checks(study: Study, stages: Sequence[Stage]) -> list[dg.AssetChecksDefinition]:
    """The checks of one study."""
    checks = [layer_check(study, stage.name, "rows_are_sound", _sound(stage.name), _SOUND) for stage in stages]
    for name in ("activation_cache", "top_examples"):
        checks.append(layer_check(study, name, "activations_recomputed", _recomputed(name), _RECOMPUTED, blocking=True))
    checks.append(layer_check(study, "top_examples", "train_and_test_disjoint", _disjoint, _DISJOINT, blocking=True))
    return [*checks, _split_check(study), _sanity_check(study), *score_checks(study)]


_SOUND = "Schema, keys unique and complete against the ledger, no NaN."
_RECOMPUTED = "Stored activations of a sample equal a fresh pass of plain transformers, within 1e-4 of a_max."
_DISJOINT = "No document, and no near-duplicate of one, stands on both sides of a unit, and none of them is held out."


# -------------------------------------------------------------------------------------------- per layer
def _sound(stage: str) -> LayerCheck:
    def check(session: Session, layer: int) -> list[str]:
        return [sentence for table in _STAGE_TABLES[stage] for sentence in _table_faults(session, stage, table, layer)]

    return check


def _table_faults(session: Session, stage: str, table: str, layer: int) -> list[str]:
    schema = TABLES[table]
    faults = []
    columns = session.columns(table, layer)
    if columns != schema.schema:
        faults.append(f"{table} has the columns {columns}, not those of storage/tables.py")
        return faults
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


def _recomputed(stage: str) -> LayerCheck:
    table = "top_contexts" if stage == "activation_cache" else "top_examples"

    def check(session: Session, layer: int) -> list[str]:
        rows = hash_json([session.manifest(table, layer).content_hash, session.model_hash])
        passed = session.home.cache / "checked" / session.study.name / f"{table}-{layer}"
        if passed.is_file() and passed.read_text() == rows:
            return []  # the same rows of the same model were recomputed before
        faults = _recompute_faults(session, table, layer)
        if not faults:
            write_atomically(passed, lambda temporary: temporary.write_text(rows))
        return faults

    return check


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
        mine = rows.filter(pl.col("unit") == unit.number, pl.col("sign") == unit.sign).head(_SAMPLED_CONTEXTS)
        for row in mine.iter_rows(named=True):
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


def _plain_activations(session: Session, layer: int, neuron: int, token_ids: list[int]) -> np.ndarray:
    import torch

    read: list[torch.Tensor] = []
    session.subject().run(
        torch.tensor([token_ids]), {layer: lambda activations: read.append(activations[0, :, neuron].float())}
    )
    return read[0].cpu().numpy()


def _disjoint(session: Session, layer: int) -> list[str]:
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
def _study_check(
    study: Study,
    asset: str,
    name: str,
    description: str,
    check: Callable[[Session], tuple[list[str], Mapping[str, Any]]],
    *,
    blocking: bool,
) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=study.key(asset), name=name, description=description, blocking=blocking, required_resource_keys={"n2g"}
    )
    def run(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        faults, metadata = check(Session(study, context.resources.n2g.open(), context.log))
        severity = dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN
        said = "; ".join(faults) or "sound"
        return dg.AssetCheckResult(passed=not faults, severity=severity, description=said, metadata=metadata)

    return run


def _split_check(study: Study) -> dg.AssetChecksDefinition:
    def check(session: Session) -> tuple[list[str], Mapping[str, Any]]:
        documents, contexts = session.read("documents"), session.read("contexts")
        faults = []
        mixed = (
            documents.filter(pl.col("split") != "out_of_domain").group_by("cluster_id").agg(pl.col("split").n_unique())
        )
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
        shares = documents.filter(pl.col("split") != "out_of_domain").group_by("split").agg(pl.col("n_tokens").sum())
        counts = dict(shares.iter_rows())
        share = counts.get("held_out", 0) / max(sum(counts.values()), 1)
        return faults, {"held-out share of tokens": share}

    description = "Contexts and documents agree on their split, and no held-out text or near-duplicate is harvested."
    return _study_check(study, "corpus_tokens", "split_is_sound", description, check, blocking=True)


def _sanity_check(study: Study) -> dg.AssetChecksDefinition:
    def check(session: Session) -> tuple[list[str], Mapping[str, Any]]:
        row = session.model_row
        uniform = math.log(row["d_vocab"])
        faults = []
        if not row["nats_per_token"] < uniform:
            faults.append(
                f"{row['nats_per_token']:.2f} nats a token on English prose is no better than chance ({uniform:.2f}): "
                "the weights are untrained or damaged"
            )
        return faults, {"nats per token": row["nats_per_token"], "of a uniform guess": uniform}

    description = "The model predicts English prose better than chance."
    return _study_check(study, "subject_model", "model_is_sane", description, check, blocking=False)
