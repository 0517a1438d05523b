"""Asset checks of the scores: what must hold of them, and what a reader should be warned of."""

from __future__ import annotations

from itertools import product

import polars as pl

from n2g_assets.assets.check_kinds import Check
from n2g_assets.assets.session import Session

NEAR_ZERO = 0.1
"""Mean F1 under which the shuffled control counts as next to nothing."""


def _none_missing(session: Session, layer: int) -> list[str]:
    asked = {tuple(unit) for unit in session.units(layer)}
    faults = []
    for stage in session.study.stages:
        missing = asked - set(session.read("ledger", layer, part=stage).select("unit", "sign").iter_rows())
        if missing:
            faults.append(f"{len(missing)} units are missing from the ledger of {stage}: materialize it again")
    ended = session.read("ledger", layer, part="evaluation")
    sound = set(ended.filter(pl.col("status") == "ok").select("unit", "sign").iter_rows())
    evaluation = session.read("evaluation", layer, columns=["unit", "sign", "predictor", "text"])
    texts = [text for text in session.study.texts if text in set(evaluation["text"])]
    for predictor, text in product(session.study.predictors, texts):
        if predictor == "graph_shuffled" and len(sound) < 2:  # there is no other unit's graph
            continue
        rows = evaluation.filter(pl.col("predictor") == predictor, pl.col("text") == text)
        missing = sound - set(rows.select("unit", "sign").iter_rows())
        if missing:
            faults.append(f"{len(missing)} units have no score of {predictor} on {text}: materialize it again")
    return faults


def _beats_lookup(session: Session, layer: int) -> list[str]:
    faults = []
    for row in _means(session, layer, "graph").filter(pl.col("text") == "top").iter_rows(named=True):
        if row["f1_gain_low"] is not None and row["f1_gain_low"] <= 0:
            faults.append(
                f"the graphs' mean F1 of {row['f1_all']:.2f} differs from the token lookup's by {row['f1_gain']:+.2f} "
                f"(95 % interval {row['f1_gain_low']:+.2f} to {row['f1_gain_high']:+.2f}): it is not shown that "
                "context helps"
            )
    return faults


def _texts_there(session: Session, layer: int) -> list[str]:
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


def _near_zero(session: Session, layer: int) -> list[str]:
    return [
        f"the graph of another unit has a mean F1 of {row['f1_all']:.2f} on {row['text']}: firing there is common or "
        "shared, so F1 says little about a single unit"
        for row in _means(session, layer, "graph_shuffled").iter_rows(named=True)
        if row["f1_all"] >= NEAR_ZERO
    ]


def _means(session: Session, layer: int, predictor: str) -> pl.DataFrame:
    return session.read("layer_scores", layer).filter(pl.col("predictor") == predictor)


SCORE_CHECKS = (
    Check(
        "no_unit_is_missing", "Every unit is in the ledger of every stage; every unit that is ok has a row a predictor "
        "and text that the study scores.",
        _none_missing, blocking=True,
    ),
    Check(
        "graph_beats_token_lookup",
        "On the units' own test contexts the graphs' mean F1 is above that of the token lookup, interval and all.",
        _beats_lookup, warns=True,
    ),
    Check(
        "texts_are_there", "Every held-out text has as many tokens as the settings ask for.",
        _texts_there, warns=True, applies=lambda study: "random" in study.texts,
    ),
    Check(
        "shuffled_control_is_near_zero",
        f"The graph of another unit of the layer has a mean F1 below {NEAR_ZERO} on every text.",
        _near_zero, warns=True, applies=lambda study: "graph_shuffled" in study.predictors,
    ),
)  # fmt: skip
"""The checks of the asset ``evaluation`` that speak of its scores."""
