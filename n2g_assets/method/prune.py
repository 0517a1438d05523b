"""Stage ``pruned_examples``: the shortest prompts that still fire, and what in them matters (paper section 3.1, 3.3).

1. For each train context with peak p, try the suffixes BOS + x[s..p] from the shortest on, in rounds of growing
   length; a round asks for all open contexts of all units in one call.
2. Keep the shortest that has at least ``prune_keep`` of the whole context's activation at p and whose own peak is
   still p (an equal activation at an earlier position takes the peak away: of equals the first counts, as everywhere).
   None passes: keep the longest tried, not reduced.
3. Multiply its activations by a(full, p) / a(pruned, p), as the authors do, before they are normalised; where
   a(pruned, p) is not positive (``kept_share`` shows it) the factor is 1.
4. Its activating positions are those that fire after that, and the peak in any case; saliency.py gives their
   importances, from one call for all units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Float32, Float64, Int, Int32

from n2g_assets.method.probing import Prober, Unit, Vocabulary
from n2g_assets.method.results import BlockResult, finish_block, rows_by_unit, unit_frame
from n2g_assets.method.saliency import importance_rows, masked_prompts
from n2g_assets.settings import MethodSettings


@dataclass(frozen=True)
class TrainContext:
    """One train context of a unit."""

    unit: Unit
    rank: int
    token_ids: Int32[np.ndarray, " length"]
    peak: int
    activation: float
    """At the peak."""


@dataclass(frozen=True)
class PrunedPrompt:
    """What pruning keeps of a train context."""

    context: TrainContext
    token_ids: Int32[np.ndarray, " kept"]
    """BOS and the kept suffix; the peak is the last."""
    activations: Float32[np.ndarray, " kept"]
    """Before rescaling."""
    reduced: bool
    """Whether it passed; if not, it is the longest tried."""

    @property
    def peak(self) -> int:
        """Position of the peak: the last."""
        return len(self.token_ids) - 1

    def activating(self, a_max: float, threshold: float) -> Int[np.ndarray, " activating"]:
        """The positions, from 1, that fire after rescaling, and the peak, ascending."""
        whole = rescale(self.activations, self.context.activation, float(self.activations[-1]))
        firing = whole / a_max >= threshold
        firing[0], firing[-1] = False, True
        return np.flatnonzero(firing)


def rescale(activations: Float32[np.ndarray, " length"], full: float, pruned: float) -> Float64[np.ndarray, " length"]:
    """Activations of a pruned prompt or its variant times a(full, p) / a(pruned, p), where a(pruned, p) is positive."""
    activations = activations.astype(np.float64)
    return activations * full / pruned if pruned > 0 else activations


def prune_contexts(
    contexts: Sequence[TrainContext], bos_id: int, prober: Prober, settings: MethodSettings
) -> list[PrunedPrompt]:
    """Prunes train contexts of any units of a layer, in order (steps 1 and 2)."""
    pruned: dict[int, PrunedPrompt] = {}
    still_open = list(range(len(contexts)))
    for shortest, longest in _rounds(settings.prune_max_prefix + 1):
        asked = [
            (index, _suffix(contexts[index], length, bos_id))
            for index in still_open
            for length in range(shortest, min(longest, contexts[index].peak) + 1)
        ]
        if not asked:
            break
        answers = prober.activations([prompt for _, prompt in asked], [contexts[index].unit for index, _ in asked])
        for (index, prompt), activations in zip(asked, answers, strict=True):
            if index in pruned and pruned[index].reduced:
                continue  # a shorter suffix of the same round passed
            strong = float(activations[-1]) >= settings.prune_keep * contexts[index].activation
            still_peak = int(np.argmax(activations[1:])) == len(prompt) - 2
            pruned[index] = PrunedPrompt(contexts[index], prompt, activations, strong and still_peak)
        still_open = [index for index in still_open if not pruned[index].reduced]
    return [pruned[index] for index in range(len(contexts))]


def prune_examples(
    units: Sequence[Unit],
    top_examples: pl.DataFrame,
    a_max: Mapping[Unit, float],
    vocabulary: Vocabulary,
    prober: Prober,
    settings: MethodSettings,
) -> BlockResult:
    """Prunes the train contexts of a block of units and measures the importance of what is kept.

    Args:
        units: the block, all of the prober's layer.
        top_examples: table ``top_examples``; only rows with split ``train`` are read.
        a_max: largest activation of each unit over the harvest.
        vocabulary: its ``bos_id`` and ``mask_id`` are read.
        prober: asked once a round of pruning and once for all masked prompts.
        settings: ``prune_keep``, ``prune_max_prefix`` and ``firing_threshold`` are read.

    Returns:
        Tables ``pruned_examples`` and ``saliencies``, and a ledger entry for every unit.
    """
    train = rows_by_unit(units, top_examples.filter(pl.col("split") == "train").sort("rank"))
    contexts = [
        TrainContext(unit, row["rank"], np.asarray(row["token_ids"], np.int32), row["peak"], row["activation"])
        for unit in units
        for row in train[unit]
    ]
    pruned = prune_contexts(contexts, vocabulary.bos_id, prober, settings)
    examples, saliencies = [], []
    for prompt, masked in zip(pruned, _masked_activations(pruned, vocabulary.mask_id, prober), strict=True):
        unit, full, kept = prompt.context.unit, prompt.context.activation, float(prompt.activations[-1])
        positions = prompt.activating(a_max[unit], settings.firing_threshold)
        importances = importance_rows(prompt.activations, masked, positions)
        examples.append({
            **unit._asdict(), "rank": prompt.context.rank, "peak": prompt.peak,
            "start": prompt.context.peak - prompt.peak + 1, "token_ids": prompt.token_ids, "activation": kept,
            "full_activation": full, "kept_share": kept / full, "reduced": prompt.reduced,
            "activations": prompt.activations, "importances": importances[-1],
        })  # fmt: skip
        whole = rescale(prompt.activations, full, kept)
        saliencies += [
            {**unit._asdict(), "rank": prompt.context.rank, "position": position, "activation": whole[position],
             "importances": row}
            for position, row in zip(positions.tolist(), importances, strict=True)
        ]  # fmt: skip
    tables = {
        "pruned_examples": unit_frame("pruned_examples", examples),
        "saliencies": unit_frame("saliencies", saliencies),
    }
    return finish_block(units, tables)


def _rounds(longest: int) -> Iterator[tuple[int, int]]:
    """Lengths of suffixes tried together: 1-2, 3-4, 5-8, 9-16, ... up to ``longest``."""
    first, last = 1, 2
    while first <= longest:
        yield first, min(last, longest)
        first, last = last + 1, last * 2


def _suffix(context: TrainContext, length: int, bos_id: int) -> Int32[np.ndarray, " kept"]:
    """BOS and the ``length`` tokens of a context that end with its peak."""
    suffix = context.token_ids[context.peak + 1 - length : context.peak + 1]
    return np.concatenate([np.array([bos_id], np.int32), suffix])


def _masked_activations(
    pruned: Sequence[PrunedPrompt], mask_id: int, prober: Prober
) -> Iterator[Float32[np.ndarray, "kept length"]]:
    """For every pruned prompt the activations of its masked prompts, from one call for all."""
    prompts = [masked for one in pruned for masked in masked_prompts(one.token_ids, mask_id)]
    units = [one.context.unit for one in pruned for _ in range(one.peak)]
    answers = iter(prober.activations(prompts, units) if prompts else [])
    for one in pruned:
        yield np.stack([next(answers) for _ in range(one.peak)])
