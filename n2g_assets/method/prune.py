"""Stage ``pruned_examples``: the shortest prompts that still fire, and what in them matters (paper section 3.1, 3.3).

1. For each train context with peak p, try the suffixes BOS + x[s..p], the shortest first. One call to the prober, a
   wave, asks for the next suffix of every open context of every unit; for several lengths together where one length
   gives fewer tokens than a full batch.
2. Keep the shortest suffix that has at least ``prune_keep`` of the whole context's activation at p and whose own peak
   is still p. The first of equal activations is the peak, so an equal activation before p fails. If no suffix passes,
   keep the longest that was tried; it counts as not reduced.
3. Multiply its activations by a(full, p) / a(pruned, p), as the authors do, before they are normalised. Where
   a(pruned, p) is not positive (column ``kept_share`` shows it) the factor is 1.
4. Its activating positions are those that fire after step 3, and always the peak.
5. Saliency is how much of an activation is lost when one token is masked. For every kept token k (BOS never) there is a
   masked prompt, in which the mask token stands at k; these join the next wave while other contexts are still being
   pruned. I_k(j) = 1 - a(prompt with k masked, j) / a(prompt, j) for every activating position j. A token after j
   cannot influence j, so its importance is 0. Where a(prompt, j) is not positive, no share of it can be lost: all
   importances for that j are 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Float32, Float64, Int, Int32

from n2g_assets.core.settings import PruneSettings
from n2g_assets.core.units import Unit
from n2g_assets.method.probing import Prober, Vocabulary
from n2g_assets.method.results import BlockResult, finish_block, rows_by_unit, unit_frame


@dataclass(frozen=True)
class TrainContext:
    """One train context of a unit."""

    unit: Unit
    rank: int
    token_ids: Int32[np.ndarray, " length"]
    peak: int
    activation: float
    """Activation at the peak."""


@dataclass(frozen=True)
class PrunedPrompt:
    """What pruning keeps of a train context."""

    context: TrainContext
    token_ids: Int32[np.ndarray, " kept"]
    """BOS and the kept suffix; the peak is the last."""
    activations: Float32[np.ndarray, " kept"]
    """Before rescaling."""
    reduced: bool
    """Whether it passed step 2; if not, it is the longest suffix that was tried."""

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


def longest_suffix(peak: int, settings: PruneSettings) -> int:
    """Tokens of the longest suffix of a context that is tried, BOS not counted."""
    return min(settings.prune_max_prefix + 1, peak)


@dataclass
class _Trial:
    """A train context while it is pruned."""

    context: TrainContext
    longest: int
    """Tokens of the longest suffix to try."""
    pruned: PrunedPrompt | None = None
    """The shortest suffix that passed, else the longest tried."""
    masked: list[Float32[np.ndarray, " kept"]] = field(default_factory=list)
    """Activations of its masked prompts."""

    @property
    def passed(self) -> bool:
        return self.pruned is not None and self.pruned.reduced

    def suffix(self, length: int, bos_id: int) -> Int32[np.ndarray, " kept"]:
        """BOS and the ``length`` tokens that end with the peak."""
        tokens = self.context.token_ids[self.context.peak + 1 - length : self.context.peak + 1]
        return np.concatenate([np.array([bos_id], np.int32), tokens])


def prune_contexts(
    contexts: Sequence[TrainContext], vocabulary: Vocabulary, prober: Prober, settings: PruneSettings
) -> Iterator[tuple[PrunedPrompt, Float32[np.ndarray, "kept length"]]]:
    """Prunes train contexts of any units of a layer, and masks each kept token (steps 1, 2 and 5).

    Yields:
        For every context, in order, its pruned prompt and the activations of the prompt's masked prompts.
    """
    trials = [_Trial(context, longest_suffix(context.peak, settings)) for context in contexts]
    still_open, closed, length = trials, list[_Trial](), 0
    while still_open or closed:
        masked = [
            (trial, prompt)
            for trial in closed
            if trial.pruned is not None
            for prompt in masked_prompts(trial.pruned.token_ids, vocabulary.mask_id)
        ]
        lengths = _wave(still_open, length, sum(len(prompt) for _, prompt in masked), prober.full_batch_tokens)
        suffixes = [
            (trial, trial.suffix(n_tokens, vocabulary.bos_id))
            for n_tokens in lengths
            for trial in still_open
            if n_tokens <= trial.longest
        ]
        asked = masked + suffixes
        answers = prober.activations([prompt for _, prompt in asked], [trial.context.unit for trial, _ in asked])
        for (trial, _), activations in zip(masked, answers, strict=False):
            trial.masked.append(activations)
        for (trial, prompt), activations in zip(suffixes, answers[len(masked) :], strict=True):
            if not trial.passed:  # shorter suffixes are judged before
                strong = float(activations[-1]) >= settings.prune_keep * trial.context.activation
                still_peak = int(np.argmax(activations[1:])) == len(prompt) - 2
                trial.pruned = PrunedPrompt(trial.context, prompt, activations, strong and still_peak)
        length = lengths.stop - 1
        closed = [trial for trial in still_open if trial.passed or length >= trial.longest]
        still_open = [trial for trial in still_open if not trial.passed and length < trial.longest]
    for trial in trials:
        assert trial.pruned is not None
        yield trial.pruned, np.stack(trial.masked)


def _wave(still_open: Sequence[_Trial], tried: int, tokens: int, full_batch_tokens: int) -> range:
    """Lengths of the suffixes to try together: the one after ``tried``, and more while they fit into a full batch.

    ``tokens`` are those that the wave asks for already.
    """
    longest = max((trial.longest for trial in still_open), default=tried)
    last = tried
    while last < longest:
        tokens += sum(last + 2 for trial in still_open if last < trial.longest)
        if last > tried and tokens > full_batch_tokens:
            break
        last += 1
    return range(tried + 1, last + 1)


def masked_prompts(token_ids: Int32[np.ndarray, " length"], mask_id: int) -> Int32[np.ndarray, "kept length"]:
    """One prompt for every kept token: row k-1 has ``mask_id`` at position k."""
    masked = np.tile(token_ids, (len(token_ids) - 1, 1))
    masked[np.arange(len(masked)), np.arange(1, len(token_ids))] = mask_id
    return masked


def importance_rows(
    activations: Float32[np.ndarray, " length"],
    masked: Float32[np.ndarray, "kept length"],
    positions: Int[np.ndarray, " activating"],
) -> Float32[np.ndarray, "activating length"]:
    """I_k(j) for every activating position j (rows) and every position k (columns; 0 for BOS and for k > j).

    ``activations`` are a(prompt, ·), row k-1 of ``masked`` is a(prompt with k masked, ·); no position is 0.
    """
    rows = np.zeros((len(positions), len(activations)), np.float32)
    for row, position in zip(rows, positions, strict=True):
        whole = float(activations[position])
        if whole > 0:
            row[1 : position + 1] = 1 - masked[:position, position].astype(np.float64) / whole
    return rows


def prune_examples(
    units: Sequence[Unit],
    top_examples: pl.DataFrame,
    a_max: Mapping[Unit, float],
    vocabulary: Vocabulary,
    prober: Prober,
    settings: PruneSettings,
) -> BlockResult:
    """Tables ``pruned_examples`` and ``saliencies`` of a block of units of the prober's layer; others are ignored."""
    train = rows_by_unit(units, top_examples.filter(pl.col("split") == "train").sort("rank"))
    contexts = [
        TrainContext(unit, row["rank"], np.asarray(row["token_ids"], np.int32), row["peak"], row["activation"])
        for unit in units
        for row in train[unit]
    ]
    examples, saliencies = [], []
    for prompt, masked in prune_contexts(contexts, vocabulary, prober, settings):
        positions = prompt.activating(a_max[prompt.context.unit], settings.firing_threshold)
        example, salient = prompt_rows(prompt, positions, importance_rows(prompt.activations, masked, positions))
        examples.append(example)
        saliencies += salient
    rows = {"pruned_examples": examples, "saliencies": saliencies}
    return finish_block(units, {table: unit_frame(table, of_table) for table, of_table in rows.items()})


def prompt_rows(
    prompt: PrunedPrompt,
    positions: Int[np.ndarray, " activating"],
    importances: Float[np.ndarray, "activating kept"],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A pruned prompt's row of ``pruned_examples``, and its rows of ``saliencies``.

    ``positions`` are its activating positions, ascending; the peak is the last.
    """
    full, kept, peak = prompt.context.activation, float(prompt.activations[-1]), len(prompt.token_ids) - 1
    key = {**prompt.context.unit.key(), "rank": prompt.context.rank}
    example = {
        **key, "peak": peak, "start": prompt.context.peak - peak + 1, "token_ids": prompt.token_ids,
        "activation": kept, "full_activation": full, "kept_share": kept / full, "reduced": prompt.reduced,
        "activations": prompt.activations, "importances": importances[-1],
    }  # fmt: skip
    whole = rescale(prompt.activations, full, kept)
    return example, [
        {**key, "position": position, "activation": whole[position], "importances": row}
        for position, row in zip(positions.tolist(), importances, strict=True)
    ]
