"""Asset checks: what must hold of what a stage has just written, and what a reader of its scores should be warned of.

A check is a function of a session and, where its asset has layers, of a layer. Its docstring says what must hold; it
returns a sentence for each fault. It runs in the step of its asset.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import dagster as dg
import numpy as np
import polars as pl

from n2g_assets.assets.session import Session
from n2g_assets.assets.study import Study
from n2g_assets.core.registry import STAGES, named
from n2g_assets.core.tables import TABLES
from n2g_assets.core.unit_settings import UnitSettings
from n2g_assets.core.units import Unit
from n2g_assets.corpus.spelling import Spelling
from n2g_assets.corpus.splitting import find_leaks
from n2g_assets.storage.cache import Cache
from n2g_assets.storage.hashing import hash_json

Faults = Callable[..., list[str]]
"""What a check is: it says what is wrong, one sentence each."""

_SAMPLED_UNITS = 3
_SAMPLED_CONTEXTS = 2
_TOLERANCE = 1e-4
"""Share of a_max within which a recomputed activation must lie."""

_EVERY_UNIT_HAS_ROWS = {
    "neuron_stats", "sampled_activations", "top_examples", "pruned_examples", "graph_nodes", "rules", "evaluation",
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """One asset check of one asset of a study."""

    name: str
    description: str
    """What must hold."""
    faults: Faults
    """Called with the session and, for a per-layer asset, the layer."""
    blocking: bool
    """Whether later stages of the run wait for it."""
    warns: bool
    """Whether a fault is a warning rather than an error."""
    applies: Callable[[Study], bool]
    """Whether a study has this check."""


_CHECKS: dict[str, list[Check]] = {}
"""By asset."""


def _checks(
    *assets: str, blocking: bool = False, warns: bool = False, applies: Callable[[Study], bool] = lambda _study: True
) -> Callable[[Faults], Faults]:
    """Makes a function a check of an asset; one of several assets is called with the asset's name first."""

    def add(function: Faults) -> Faults:
        for asset in assets:
            faults = partial(function, asset) if len(assets) > 1 else function
            description = " ".join((function.__doc__ or "").split())
            check = Check(function.__name__, description, faults, blocking, warns, applies)
            _CHECKS.setdefault(asset, []).append(check)
        return function

    return add


def checks_of(study: Study, asset: str) -> list[Check]:
    """The checks of an asset of a study."""
    return [check for check in _CHECKS.get(asset, ()) if check.applies(study)]


def check_results(
    session: Session, asset: str, checks: Iterable[Check], layers: Mapping[str, int] | None = None
) -> Iterator[dg.AssetCheckResult]:
    """Runs checks of one asset.

    ``layers`` are the layers of the run by partition key; a check speaks for all of them, and names those in which
    something is wrong. None for an asset without layers.
    """
    for check in checks:
        if layers is None:
            said, metadata = check.faults(session), {}
        else:
            said = [f"layer {key}: {fault}" for key, layer in layers.items() for fault in check.faults(session, layer)]
            metadata = {"layers": dg.MetadataValue.text(", ".join(layers))}
        yield dg.AssetCheckResult(
            passed=not said,
            check_name=check.name,
            asset_key=session.study.key(asset),
            severity=dg.AssetCheckSeverity.WARN if check.warns else dg.AssetCheckSeverity.ERROR,
            description="; ".join(said) or "sound",
            metadata=metadata,
        )


# -------------------------------------------------------------------------------------------- rows of a layer
def _units_of(frame: pl.DataFrame) -> set[Unit]:
    return {Unit(number, sign) for number, sign in frame.select("unit", "sign").unique().iter_rows()}


@_checks(*named(STAGES))
def rows_are_sound(stage: str, session: Session, layer: int) -> list[str]:
    """Rows complete against the ledger, no NaN; schema and unique keys are checked when rows are written."""
    faults = []
    ledger, asked = session.read("ledger", layer, part=stage), session.units(layer)
    if _units_of(ledger) != set(asked):
        faults.append(f"the ledger of {stage} names {ledger.height} units, {len(asked)} were asked for")
    sound = _units_of(ledger.filter(status="ok"))
    for table in named(STAGES)[stage].tables:
        of_units = TABLES[table].by_unit
        there = _units_of(session.read(table, layer, columns=["unit", "sign"])) if of_units else set()
        if table in _EVERY_UNIT_HAS_ROWS and sound - there:
            faults.append(f"{table} lacks {len(sound - there)} units that the ledger calls ok")
        if stage != "activation_cache" and there - sound:
            faults.append(f"{table} holds {len(there - sound)} units that the ledger does not call ok")
        for column, dtype in TABLES[table].schema.items():
            if dtype.is_float() or (isinstance(dtype, pl.List) and dtype.inner.is_float()):
                values = session.read(table, layer, columns=[column])[column]  # one column is in memory at a time
                if (values if dtype.is_float() else values.explode()).is_nan().any():
                    faults.append(f"{table}.{column} holds NaN")
    return faults


@_checks("activation_cache", "top_examples", blocking=True)
def activations_recomputed(stage: str, session: Session, layer: int) -> list[str]:
    """Stored activations of a sample equal those of a fresh pass of plain transformers, within 1e-4 of a_max.

    The pass takes one context at a time, without padding.
    """
    table = "top_contexts" if stage == "activation_cache" else "top_examples"
    checked = hash_json([table, layer, session.manifest(table, layer).content_hash, session.units_hash(layer)])
    cache = Cache(session.home)
    if cache.find("checked", checked) is not None:  # rows of the same model that were found sound before
        return []
    units = session.units(layer)
    rng = np.random.default_rng(np.random.SeedSequence([layer, len(units)]))
    chosen = [units[i] for i in rng.permutation(len(units))[:_SAMPLED_UNITS]]
    a_max = session.a_max(layer, chosen)
    columns = ["unit", "sign", "context_id", "peak", "activation", "activations"]
    rows = session.read(table, layer, columns=columns, units=chosen)
    sampled = rows.group_by("unit", "sign", maintain_order=True).head(_SAMPLED_CONTEXTS)
    tokens = session.contexts.select("context_id", "token_ids")
    faults = []
    for row in sampled.join(tokens, on="context_id", how="left", maintain_order="left").iter_rows(named=True):
        unit = Unit(row["unit"], row["sign"])
        fresh = _plain_activations(session, layer, unit.number, row["token_ids"]) * unit.sign
        difference = abs(float(fresh[row["peak"]]) - row["activation"])
        difference = max(difference, float(np.abs(fresh[1:] - np.asarray(row["activations"])[1:]).max()))
        if not difference <= _TOLERANCE * abs(a_max[unit]):
            faults.append(
                f"{session.settings.word} {unit.number} in {row['context_id']} differs by {difference:.1e} of a_max "
                f"{a_max[unit]:.3g}: delete cache/evidence and slices/{table} in N2G_HOME and run again"
            )
    if not faults:
        cache.write("checked", checked, lambda folder: None, {"table": table, "layer": layer})
    return faults


def _plain_activations(session: Session, layer: int, number: int, token_ids: list[int]) -> np.ndarray:
    import torch

    model = session.subject()
    carried = model.read_layers(torch.tensor([token_ids]), [layer])[layer]
    return model.picker(layer, torch.tensor([number]))(carried)[0].float().cpu().numpy()


@_checks("top_examples", blocking=True)
def train_and_test_disjoint(session: Session, layer: int) -> list[str]:
    """No document, and no near-duplicate of one, stands on both sides of a unit, and none of them is held out."""
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


# -------------------------------------------------------------------------------------------- scores of a layer
@_checks("evaluation", blocking=True)
def no_unit_is_missing(session: Session, layer: int) -> list[str]:
    """Every unit is in the ledger of every stage.

    Every unit that is ok has a row a predictor of ours and text that the study scores.
    """
    asked, faults = set(session.units(layer)), []
    for stage in session.study.stages:
        missing = asked - _units_of(session.read("ledger", layer, part=stage))
        if missing:
            faults.append(f"{len(missing)} units are missing from the ledger of {stage}: materialize it again")
    sound = _units_of(session.read("ledger", layer, part="evaluation").filter(status="ok"))
    scores = session.read("evaluation", layer, columns=["unit", "sign", "predictor", "text"])
    there = set(scores["text"])
    for predictor, text in product(session.study.fitted_predictors, session.study.texts):
        if text not in there or (predictor == "graph_shuffled" and len(sound) < 2):  # there is no other unit's graph
            continue
        missing = sound - _units_of(scores.filter(predictor=predictor, text=text))
        if missing:
            faults.append(f"{len(missing)} units have no score of {predictor} on {text}: materialize it again")
    return faults


@_checks("evaluation", warns=True)
def graph_beats_token_lookup(session: Session, layer: int) -> list[str]:
    """On the units' own test contexts the graphs' mean F1 is above that of the token lookup, interval and all."""
    means = session.read("layer_scores", layer).filter(pl.col("f1_gain_low") <= 0, predictor="graph", text="top")
    return [
        f"the graphs' mean F1 of {row['f1_all']:.2f} differs from the token lookup's by {row['f1_gain']:+.2f} "
        f"(95 % interval {row['f1_gain_low']:+.2f} to {row['f1_gain_high']:+.2f}): it is not shown that context helps"
        for row in means.iter_rows(named=True)
    ]


@_checks("evaluation", warns=True, applies=lambda study: "random" in study.texts)
def texts_are_there(session: Session, layer: int) -> list[str]:
    """Every held-out text has as many tokens as the settings ask for."""
    settings = session.settings.evaluation
    wanted = (("random", settings.random_tokens), ("out_of_domain", settings.out_of_domain_tokens))
    faults = []
    for name, asked in wanted:
        frame = session.held_out_contexts.get(name)
        tokens = 0 if frame is None else int((frame["token_ids"].list.len().cast(pl.Int64) - 1).sum())
        if tokens < asked:
            cure = "raise harvest.held_out_share" if name == "random" else "give a source the role out_of_domain"
            faults.append(f"the text {name} has {tokens:,} of {asked:,} tokens: add text to the corpus, or {cure}")
    return faults


@_checks("evaluation", warns=True, applies=lambda study: "graph_shuffled" in study.predictors)
def shuffled_control_is_near_zero(session: Session, layer: int) -> list[str]:
    """The graph of another unit of the layer has a mean F1 below 0.1 on every text."""
    means = session.read("layer_scores", layer).filter(pl.col("f1_all") >= 0.1, predictor="graph_shuffled")
    return [
        f"the graph of another unit has a mean F1 of {row['f1_all']:.2f} on {row['text']}: firing there is common or "
        "shared, so F1 says little about a single unit"
        for row in means.iter_rows(named=True)
    ]


# -------------------------------------------------------------------------------------------- per study
@_checks("corpus_tokens", blocking=True)
def split_is_sound(session: Session) -> list[str]:
    """Contexts and documents agree on their split, and no held-out text or near-duplicate is harvested."""
    documents, contexts = session.read("documents"), session.read("contexts")
    faults = []
    mixed = documents.filter(pl.col("split") != "out_of_domain").group_by("cluster_id").agg(pl.col("split").n_unique())
    if (mixed["split"] > 1).any():
        faults.append("near-duplicate documents stand on both sides of the split")
    joined = contexts.join(documents, on="document_id", how="left", suffix="_of_document")
    if (joined["split"] != joined["split_of_document"]).fill_null(True).any():
        faults.append("contexts and their documents name different splits")
    spelling = Spelling(session.vocabulary.tokens)
    for held_out, harvested in find_leaks(contexts, session.settings.harvest.near_duplicate_run, spelling)[:3]:
        faults.append(
            f"the text of document {held_out}, which is not to be harvested, stands in the harvested document "
            f"{harvested}: take one of the two out of the corpus"
        )
    return faults


@_checks("subject_model", warns=True)
def model_is_sane(session: Session) -> list[str]:
    """The model predicts English prose better than chance."""
    row = session.model_row
    uniform = math.log(row["d_vocab"])
    if row["nats_per_token"] < uniform:
        return []
    return [
        f"{row['nats_per_token']:.2f} nats a token on English prose is no better than chance ({uniform:.2f}): "
        "the weights are untrained or damaged"
    ]


@_checks("subject_model", warns=True, applies=lambda study: isinstance(study.settings.units, UnitSettings))
def encoders_fit(session: Session) -> list[str]:
    """What each encoder reconstructs is nearer to what the model carries than its mean."""
    return [
        f"the encoder of layer {layer} leaves {row['unexplained']:.3g} of the variance on English prose, and the mean "
        "leaves 1: it was trained on another model or hook, or it is damaged"
        for layer, row in session.model_row["encoders"].items()
        if row["unexplained"] is not None and not row["unexplained"] < 1
    ]
