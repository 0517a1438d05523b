"""Stage ``augmented_examples``: variants of pruned prompts that still fire (paper section 3.2).

1. Vary each token whose importance for the peak is at least ``augment_threshold`` (BOS never).
2. Ask the proposer once for the prompts of all units; a prompt that units share is asked about once.
3. Drop substitutes without tokens, and those whose form equals that of the original or of a better substitute: a graph
   matches forms and cannot tell them apart. Take the first ``substitutes`` of the rest. The form of several tokens is
   their forms joined together.
4. Measure all variants in one call. A variant is kept if the pruned prompt's activation at the peak is positive and the
   variant's, at its own last position, is at least ``substitute_keep`` of it. Rescaling would multiply both alike.

Every tried variant is a row, kept or not. ``origins`` maps its positions to those of the pruned prompt: all tokens of
a substitute stand for the token that they replace.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Int, Int32

from n2g_assets.core.settings import AugmentSettings
from n2g_assets.core.units import Unit
from n2g_assets.method.probing import Prober, Proposer, Substitute, Vocabulary
from n2g_assets.method.results import BlockResult, finish_block, rows_by_unit, unit_frame


def make_variant(
    token_ids: Int32[np.ndarray, " kept"], position: int, substitute: Sequence[int]
) -> tuple[Int32[np.ndarray, " length"], Int32[np.ndarray, " length"]]:
    """The prompt with the token at ``position`` replaced by one or more tokens, and its ``origins``."""
    before, after = np.arange(position), np.arange(position + 1, len(token_ids))
    tokens = np.concatenate([token_ids[before], np.asarray(substitute), token_ids[after]])
    origins = np.concatenate([before, np.full(len(substitute), position), after])
    return tokens.astype(np.int32), origins.astype(np.int32)


def choose_substitutes(
    original_id: int, proposed: Sequence[Substitute], vocabulary: Vocabulary, number: int
) -> list[Substitute]:
    """The first ``number`` substitutes that differ in form from the original and from better substitutes (step 3)."""
    seen = {b"", vocabulary.form(original_id)}
    chosen: list[Substitute] = []
    for substitute in proposed:
        if len(chosen) == number:
            break
        form = b"".join(map(vocabulary.form, substitute.token_ids))
        if form not in seen:
            seen.add(form)
            chosen.append(substitute)
    return chosen


def positions_to_vary(
    importances: Sequence[float] | Float[np.ndarray, " kept"], threshold: float
) -> Int[np.ndarray, " varied"]:
    """The positions, from 1, whose importance for the peak is at least ``threshold``, compared in float32."""
    important = np.asarray(importances, np.float32) >= np.float32(threshold)
    important[0] = False
    return np.flatnonzero(important)


def augment_examples(
    units: Sequence[Unit],
    pruned_examples: pl.DataFrame,
    vocabulary: Vocabulary,
    prober: Prober,
    proposer: Proposer,
    settings: AugmentSettings,
) -> BlockResult:
    """Table ``augmented_examples`` of a block of units of the prober's layer; other units' rows are ignored."""
    pruned = rows_by_unit(units, pruned_examples.sort("rank"))
    examples = [row for unit in units for row in pruned[unit]]
    tried: list[dict[str, Any]] = []
    for example, proposals in zip(examples, _propose(examples, proposer, settings), strict=True):
        token_ids = np.asarray(example["token_ids"], np.int32)
        for position, proposed in proposals.items():
            original_id = int(token_ids[position])
            chosen = choose_substitutes(original_id, proposed, vocabulary, settings.substitutes)
            for choice, substitute in enumerate(chosen):
                variant, origins = make_variant(token_ids, position, substitute.token_ids)
                tried.append({
                    "unit": example["unit"], "sign": example["sign"], "rank": example["rank"],
                    "position": position, "choice": choice, "original_id": original_id, "substitute": substitute.text,
                    "token_ids": variant, "origins": origins, "unvaried": example["activation"],
                    "proposer": proposer.name,
                })  # fmt: skip
    if tried:
        asked = [Unit(row["unit"], row["sign"]) for row in tried]
        for row, activations in zip(tried, prober.activations([row["token_ids"] for row in tried], asked), strict=True):
            row["activations"], row["activation"] = activations, float(activations[-1])
            row["kept"] = row["unvaried"] > 0 and row["activation"] >= settings.substitute_keep * row["unvaried"]
    return finish_block(units, {"augmented_examples": unit_frame("augmented_examples", tried)})


def _propose(
    examples: Sequence[Mapping[str, Any]], proposer: Proposer, settings: AugmentSettings
) -> list[dict[int, list[Substitute]]]:
    """For every example the proposals by position that is to be varied; each prompt is asked about once."""
    if not settings.substitutes:
        return [{} for _ in examples]
    prompts = [tuple(row["token_ids"]) for row in examples]
    varied = [positions_to_vary(row["importances"], settings.augment_threshold).tolist() for row in examples]
    wanted: dict[tuple[int, ...], set[int]] = {}
    for prompt, positions in zip(prompts, varied, strict=True):
        if positions:
            wanted.setdefault(prompt, set()).update(positions)
    asked = {prompt: sorted(positions) for prompt, positions in wanted.items()}
    asked_prompts = [np.asarray(prompt, np.int32) for prompt in asked]
    answers = proposer.propose(asked_prompts, list(asked.values())) if asked else []
    proposals = {
        prompt: dict(zip(asked[prompt], answer, strict=True)) for prompt, answer in zip(asked, answers, strict=True)
    }
    return [{at: proposals[prompt][at] for at in positions} for prompt, positions in zip(prompts, varied, strict=True)]
