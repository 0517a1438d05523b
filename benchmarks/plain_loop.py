"""Pruning, saliency and augmentation in a plain loop that works as the authors' code does; graphs.py compares with it.

One unit and one prompt at a time, every forward pass through the whole model and its unembedding, activations out of a
forward hook:

1. Run the whole context again, then its truncations, the shortest first and four in a pass, until one keeps enough of
   the activation with its peak still last; none does: the longest. These are the lengths that the method tries (1, 2,
   3 ...), so that both prune alike; the authors try every 5th.
2. Take the whole importance matrix of the pruned prompt: every token masked in turn, BOS too, all positions.
3. Ask the proposer for substitutes of its important tokens, and take the whole importance matrix of every variant, kept
   or not. A variant is kept by the method's rule; its activations are the first row of the same pass.

What the loop finds goes into the same three tables that the stages write (``tables``). What it finds beyond the method
(matrices of variants, importances for positions that do not fire) is left out of them. From those tables, whichever way
they were made, follows how many tokens the loop runs for a unit (``tokens_by_unit``). ``agreement`` compares both ways.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import torch
from common import GRAPH_SHAPE
from jaxtyping import Float32, Float64, Int32

from n2g_assets.core.settings import MethodSettings
from n2g_assets.core.units import Unit, of_units
from n2g_assets.method.augment import choose_substitutes, make_variant, positions_to_vary
from n2g_assets.method.probing import Proposer, Substitute, Vocabulary
from n2g_assets.method.prune import PrunedPrompt, TrainContext, longest_suffix, prompt_rows
from n2g_assets.method.results import unit_frame
from n2g_assets.model.batching import pad
from n2g_assets.model.model import SubjectModel

PRUNE_BATCH = 4
"""Truncations in one pass, as in the authors' code."""
PROMPT = ["unit", "sign", "rank", "start", "token_ids", "reduced"]
"""Columns of ``pruned_examples`` that say how a context was pruned."""
VARIANT = ["unit", "sign", "rank", "position", "choice", "token_ids"]
"""Columns of ``augmented_examples`` that say what was tried."""


@dataclass(frozen=True)
class Measured:
    """A prompt and its whole importance matrix."""

    activations: Float32[np.ndarray, " length"]
    importances: Float64[np.ndarray, "length length"]
    """Row k, column j: 1 - a(prompt with token k masked, j) / a(prompt, j); 0 where a(prompt, j) is not positive."""


@dataclass(frozen=True)
class TriedVariant:
    """A variant of a pruned prompt."""

    position: int
    """In the pruned prompt, of the token that is replaced."""
    choice: int
    """0 is the proposer's best substitute."""
    substitute: Substitute
    token_ids: Int32[np.ndarray, " length"]
    origins: Int32[np.ndarray, " length"]
    activations: Float32[np.ndarray, " length"]
    kept: bool


@dataclass(frozen=True)
class Found:
    """What the loop finds of one train context."""

    pruned: PrunedPrompt
    importances: Float64[np.ndarray, "kept kept"]
    variants: list[TriedVariant]


class PlainLoop:
    """One unit and one prompt at a time, forward passes to the last layer."""

    def __init__(
        self,
        model: SubjectModel,
        layer: int,
        vocabulary: Vocabulary,
        proposer: Proposer,
        method: MethodSettings,
    ) -> None:
        """A loop.

        Args:
            model: The subject model; its plain form is run.
            layer: Layer of the units.
            vocabulary: Its tokens.
            proposer: Asked one prompt at a time.
            method: Read as the stages read it.
        """
        assert model.hook.taps is not None, "this benchmark reads the plain model"
        self.model, self.vocabulary, self.proposer, self.method = model, vocabulary, proposer, method
        self.tap = model.hook.taps[layer]
        self.tokens = 0
        """Tokens that went through the model so far, padding not counted."""

    def run(self, unit: Unit, top_examples: pl.DataFrame) -> list[Found]:
        """All train contexts of one unit, by rank."""
        mine = top_examples.filter(unit=unit.number, sign=unit.sign, split="train").sort("rank")
        found = []
        for row in mine.iter_rows(named=True):
            pruned = self.prune(unit, row["rank"], np.array(row["token_ids"], np.int32), row["peak"])
            importances = self.measure(unit, pruned.token_ids).importances
            found.append(Found(pruned, importances, self.try_variants(unit, pruned, importances[:, -1])))
        return found

    def prune(self, unit: Unit, rank: int, tokens: Int32[np.ndarray, " length"], peak: int) -> PrunedPrompt:
        """The first truncation that keeps the peak and enough of its activation, else the longest (step 1)."""
        full = float(self.activations(unit, [tokens])[0][peak])
        context = TrainContext(unit, rank, tokens, peak, full)
        lengths = range(1, longest_suffix(peak, self.method) + 1)
        tried = [np.append(tokens[:1], tokens[peak + 1 - length : peak + 1]) for length in lengths]
        for start in range(0, len(tried), PRUNE_BATCH):
            batch = tried[start : start + PRUNE_BATCH]
            for prompt, activations in zip(batch, self.activations(unit, batch), strict=True):
                strong = float(activations[-1]) >= self.method.prune_keep * full
                passed = strong and int(np.argmax(activations[1:])) == len(prompt) - 2
                pruned = PrunedPrompt(context, prompt, activations, passed)
                if passed:
                    return pruned
        return pruned

    def measure(self, unit: Unit, prompt: Int32[np.ndarray, " length"]) -> Measured:
        """A prompt's activations and its whole importance matrix, in one pass (step 2)."""
        masked = np.tile(prompt, (len(prompt) + 1, 1))
        masked[np.arange(1, len(masked)), np.arange(len(prompt))] = self.vocabulary.mask_id
        rows = self.activations(unit, list(masked))
        whole, others = rows[0].astype(np.float64), np.stack(rows[1:]).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return Measured(rows[0], np.where(whole > 0, 1 - others / whole, 0))

    def try_variants(
        self, unit: Unit, pruned: PrunedPrompt, importances: Float64[np.ndarray, " kept"]
    ) -> list[TriedVariant]:
        """The prompt with each important token replaced by each of its substitutes (step 3)."""
        positions = positions_to_vary(importances, self.method.augment_threshold).tolist()
        if not positions:
            return []
        prompt, unvaried = pruned.token_ids, float(pruned.activations[-1])
        tried = []
        for position, proposed in zip(positions, self.proposer.propose([prompt], [positions])[0], strict=True):
            chosen = choose_substitutes(int(prompt[position]), proposed, self.vocabulary, self.method.substitutes)
            for choice, substitute in enumerate(chosen):
                token_ids, origins = make_variant(prompt, position, substitute.token_ids)
                activations = self.measure(unit, token_ids).activations
                kept = unvaried > 0 and float(activations[-1]) >= self.method.substitute_keep * unvaried
                tried.append(TriedVariant(position, choice, substitute, token_ids, origins, activations, kept))
        return tried

    def seconds_a_token(self, unit: Unit) -> float:
        """Of the largest batch that the loop runs, the importance matrix of the longest prompt that pruning leaves."""
        prompt = np.zeros(self.method.prune_max_prefix + 2, np.int32)
        seconds = []
        for _ in range(2):
            before, began = self.tokens, time.perf_counter()
            self.measure(unit, prompt)
            seconds.append((time.perf_counter() - began) / (self.tokens - before))
        return min(seconds)

    def activations(
        self, unit: Unit, prompts: Sequence[Int32[np.ndarray, " length"]]
    ) -> list[Float32[np.ndarray, " length"]]:
        """One forward pass to the last layer and its logits."""
        taken: list[torch.Tensor] = []
        module = self.model.plain.get_submodule(self.tap.module)
        if self.tap.side == "input":
            handle = module.register_forward_pre_hook(lambda _module, args: taken.append(args[0]))
        else:
            handle = module.register_forward_hook(lambda _module, _args, output: taken.append(output))
        try:
            with torch.inference_mode():
                self.model.plain(pad(prompts, self.model.bos_id).to(self.model.device), use_cache=False)
        finally:
            handle.remove()
        self.tokens += sum(map(len, prompts))
        values = (unit.sign * taken[0].flatten(2)[:, :, unit.number].float()).cpu().numpy()
        return [found[: len(prompt)] for found, prompt in zip(values, prompts, strict=True)]


def tokens_by_unit(
    top_examples: pl.DataFrame,
    pruned_examples: pl.DataFrame,
    augmented_examples: pl.DataFrame,
    method: MethodSettings,
) -> dict[Unit, int]:
    """Tokens that the loop runs for each unit when it finds these tables, pruning as the method does."""
    contexts = {(row["unit"], row["sign"], row["rank"]): row for row in top_examples.iter_rows(named=True)}
    tokens: dict[Unit, int] = {}
    for row in pruned_examples.iter_rows(named=True):
        context, kept = contexts[row["unit"], row["sign"], row["rank"]], len(row["token_ids"])
        longest = longest_suffix(context["peak"], method)
        tried = min(longest, -(-(kept - 1) // PRUNE_BATCH) * PRUNE_BATCH) if row["reduced"] else longest
        truncations = sum(range(2, tried + 2))
        unit = Unit(row["unit"], row["sign"])
        tokens[unit] = tokens.get(unit, 0) + len(context["token_ids"]) + truncations + kept * (kept + 1)
    for row in augmented_examples.iter_rows(named=True):
        length = len(row["token_ids"])
        tokens[Unit(row["unit"], row["sign"])] += length * (length + 1)
    return tokens


def tables(
    found: Iterable[Found], a_max: Mapping[Unit, float], method: MethodSettings, proposer: str
) -> dict[str, pl.DataFrame]:
    """What the loop found as ``pruned_examples``, ``saliencies`` and ``augmented_examples``.

    Args:
        found: of any units, each unit's contexts by rank.
        a_max: largest activation of each unit over the harvest.
        method: ``firing_threshold`` is read.
        proposer: its name.
    """
    examples, saliencies, variants = [], [], []
    for one in found:
        unit, pruned = one.pruned.context.unit, one.pruned
        earlier = np.triu(one.importances)  # a later token has none
        earlier[0] = 0
        positions = pruned.activating(a_max[unit], method.firing_threshold)
        example, salient = prompt_rows(pruned, positions, earlier[:, positions].T)
        examples.append(example)
        saliencies += salient
        variants += [
            {**unit.key(), "rank": pruned.context.rank, "position": tried.position, "choice": tried.choice,
             "substitute": tried.substitute.text, "original_id": int(pruned.token_ids[tried.position]),
             "token_ids": tried.token_ids, "origins": tried.origins,
             "activation": float(tried.activations[-1]), "activations": tried.activations,
             "kept": tried.kept, "proposer": proposer}
            for tried in one.variants
        ]  # fmt: skip
    return {
        "pruned_examples": unit_frame("pruned_examples", examples),
        "saliencies": unit_frame("saliencies", saliencies),
        "augmented_examples": unit_frame("augmented_examples", variants),
    }


@dataclass(frozen=True)
class Count:
    """How many of some things are the same in both ways."""

    same: int
    of: int

    def __str__(self) -> str:
        return f"{self.same:,} of {self.of:,}"


@dataclass(frozen=True)
class Agreement:
    """What both ways found of the units that both ran."""

    prompts: Count
    tried: Count
    kept: Count
    """Variants."""
    graphs: Count


def agreement(units: Sequence[Unit], ours: Mapping[str, pl.DataFrame], loop: Mapping[str, pl.DataFrame]) -> Agreement:
    """Compares the tables of both ways on these units; tables may hold rows of others."""
    one, other = ({name: frame.filter(of_units(units)) for name, frame in way.items()} for way in (ours, loop))
    kept, loop_kept = (way["augmented_examples"].filter("kept").select(VARIANT) for way in (one, other))
    shape, loop_shape = (
        way["graph_nodes"].sort("node_id").group_by("unit", "sign", maintain_order=True).agg(GRAPH_SHAPE)
        for way in (one, other)
    )
    return Agreement(
        prompts=_same_rows(one["pruned_examples"].select(PROMPT), other["pruned_examples"].select(PROMPT)),
        tried=_same_rows(one["augmented_examples"].select(VARIANT), other["augmented_examples"].select(VARIANT)),
        kept=_same_rows(kept, loop_kept),
        graphs=Count(_same_rows(shape, loop_shape).same, len(units)),
    )


def _same_rows(ours: pl.DataFrame, loop: pl.DataFrame) -> Count:
    """Rows that stand in both frames, of those that stand in either."""
    one, other = ({repr(found) for found in frame.rows()} for frame in (ours, loop))
    return Count(len(one & other), len(one | other))
