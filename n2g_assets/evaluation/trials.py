"""Rules on trial: texts made of fresh held-out text for each rule, and what the model does at their ends.

``rule_tests`` draws the texts of the paper's rules, ``class_tests`` those of rules of token classes. A *match* is a
text that a rule takes, a *near miss* one that it would take but for one token. All texts of all units are measured in
one call; the activation at the last token counts.

A rule is graded where its graph says what to expect of the near misses. It then claims a difference: what it
predicts, less what is expected *otherwise*, the mean over its near misses. The claim *held* if the mean activations of
matches and of near misses differ in the same direction by at least ``HELD_SHARE`` of that.

Each rule draws from a generator of its own, seeded from seed, layer, unit, sign and the rule's number, and from the
contexts alone, so that its texts are the same whichever other rules and units are tested beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from jaxtyping import Int, Int32, Int64

from n2g_assets.core.units import Unit
from n2g_assets.method.probing import Prober, Vocabulary
from n2g_assets.method.results import BlockResult, finish_block, unit_frame

CHANGES = EXCHANGED, MOVED, REMOVED = "exchanged", "moved", "removed"
"""Values of ``rule_tests.near_miss_changes``, in the order in which they take turns."""

CONTEXT, ACTIVATING = "context", "activating"
"""Values of ``rule_tests.near_miss_tokens``: which token of the rule was changed."""

FRESH_TOKENS = (8, 16)
"""Fewest and most tokens of fresh text before a rule's own."""

HELD_SHARE = 1 / 2
"""Share of the claimed difference of activations that has to be measured."""

_DRAWS = 64
"""Fresh tokens looked at to find one of another form."""

Text = Int32[np.ndarray, " length"]
"""Token ids of one text, BOS at position 0."""


@dataclass(frozen=True)
class FreshText:
    """Held-out contexts to draw runs and tokens from."""

    contexts: list[Int32[np.ndarray, " length"]]
    """Tokens of each context, BOS left out; none is empty."""
    tokens: Int32[np.ndarray, " tokens"]
    """Tokens of all contexts in sequence."""
    frequency: Int64[np.ndarray, " d_vocab"]
    """How often each token id occurs."""
    tokens_of: list[Int64[np.ndarray, " same_form"]]
    """By form, its token ids, ascending."""
    vocabulary: Vocabulary

    @classmethod
    def of(cls, contexts: pl.DataFrame, vocabulary: Vocabulary) -> "FreshText":
        """The text of some contexts, in the order of their ids.

        Raises:
            ValueError: there is no token in them but BOS.
        """
        runs = [row.to_numpy()[1:] for row in contexts.sort("context_id")["token_ids"] if len(row) > 1]
        if not runs:
            raise ValueError("Rules cannot be tested without held-out contexts to take fresh text from.")
        tokens = np.concatenate(runs).astype(np.int32)
        frequency = np.bincount(tokens, minlength=len(vocabulary.form_of))
        last = np.cumsum(np.bincount(vocabulary.form_of))
        tokens_of = np.split(np.argsort(vocabulary.form_of, kind="stable"), last[:-1])
        return cls(runs, tokens, frequency, tokens_of, vocabulary)

    def run(self, number: int, generator: np.random.Generator) -> Int32[np.ndarray, " number"]:
        """A run of tokens as it stands in a random context; where that is too short, another run follows."""
        pieces: list[np.ndarray] = []
        while number:
            context = self.contexts[generator.integers(len(self.contexts))]
            length = min(number, len(context))
            start = generator.integers(len(context) - length + 1)
            pieces.append(context[start : start + length])
            number -= length
        return np.concatenate(pieces)

    def begin(self, more: int, generator: np.random.Generator) -> Text:
        """BOS, a run of ``FRESH_TOKENS`` and as many more tokens as a rule looks at."""
        before = int(generator.integers(FRESH_TOKENS[0], FRESH_TOKENS[1] + 1))
        return np.append(np.int32(self.vocabulary.bos_id), self.run(before + more, generator)).astype(np.int32)

    def token_of(self, form: int, generator: np.random.Generator) -> int:
        """A token id of a form, drawn by its frequency; the lowest where none occurs."""
        candidates = self.tokens_of[form]
        drawn = draw_by_weight(self.frequency[candidates], generator)
        return int(candidates[0 if drawn is None else drawn])

    def token_outside(self, token_ids: Int[np.ndarray, " left_out"], generator: np.random.Generator) -> int | None:
        """A token id that is none of these, drawn by its frequency; none where no other occurs."""
        frequency = self.frequency.copy()
        frequency[token_ids] = 0
        return draw_by_weight(frequency, generator)

    def token_unlike(self, form: int, generator: np.random.Generator) -> int | None:
        """A token id of another form, drawn by its frequency; none where hardly any other occurs."""
        drawn = self.tokens[generator.integers(len(self.tokens), size=_DRAWS)]
        unlike = drawn[self.vocabulary.form_of[drawn] != form]
        return int(unlike[0]) if len(unlike) else None


def draw_by_weight(weights: Int[np.ndarray, " weights"], generator: np.random.Generator) -> int | None:
    """An index, drawn by its weight; none where nothing weighs anything."""
    upto = np.cumsum(weights)
    return int(np.searchsorted(upto, generator.integers(upto[-1]), side="right")) if upto[-1] else None


@dataclass(eq=False, kw_only=True)
class Trial:
    """One rule while its texts are drawn and measured."""

    unit: Unit
    rule_id: int
    predicted: float
    """Normalised activation that the graph expects of the matches."""
    generator: np.random.Generator
    matches: list[Text] = field(default_factory=list)
    near_misses: list[tuple[Text, str, int]] = field(default_factory=list)
    """Each with its change and the place of the changed token: tokens before the activating one."""
    near_miss_expected: Sequence[float] = ()
    """Normalised activation that the graph expects of each near miss; empty: the rule is not graded."""


def generator_of(seed: int, layer: int, unit: Unit, number: int) -> np.random.Generator:
    """What the rule of this number of a unit draws from."""
    return np.random.default_rng(np.random.SeedSequence([seed, layer, unit.number, int(unit.sign < 0), number]))


def measure_trials(
    units: Sequence[Unit], trials: Sequence[Trial], a_max: Mapping[Unit, float], prober: Prober, threshold: float
) -> BlockResult:
    """Table ``rule_tests`` of a block of units, and a ledger entry for each, from texts that were drawn.

    A rule without texts has a row with counts of 0. A unit fires from ``threshold`` times ``a_max`` on.
    """
    texts = [
        (trial.unit, text) for trial in trials for text in (*trial.matches, *(near for near, *_ in trial.near_misses))
    ]
    answers = iter(prober.activations([text for _, text in texts], [unit for unit, _ in texts]) if texts else [])
    rows = []
    for trial in trials:
        matched, missed = (
            np.array([next(answers)[-1] for _ in drawn], np.float64) / a_max[trial.unit]
            for drawn in (trial.matches, trial.near_misses)
        )
        means = [
            float(np.mean(values)) if len(values) else None for values in (trial.near_miss_expected, matched, missed)
        ]
        silent, of_context = missed < threshold, np.array([back > 0 for *_, back in trial.near_misses], bool)
        rows.append({
            **trial.unit.key(), "rule_id": trial.rule_id,
            "n_matches": len(matched), "fired": int((matched >= threshold).sum()),
            "n_near_misses": len(missed), "silent": int(silent.sum()),
            "match_ids": [text.tolist() for text in trial.matches], "match_activations": matched,
            "near_miss_ids": [text.tolist() for text, *_ in trial.near_misses], "near_miss_activations": missed,
            "near_miss_changes": [change for _, change, _ in trial.near_misses],
            "near_miss_tokens": [CONTEXT if back else ACTIVATING for *_, back in trial.near_misses],
            "n_context_near_misses": int(of_context.sum()), "context_silent": int((of_context & silent).sum()),
            "near_miss_expected": [*trial.near_miss_expected], "predicted": trial.predicted,
            **dict(zip(("otherwise", "match_mean", "near_miss_mean"), means, strict=True)),
            "held": has_held(trial.predicted, *means),
        })  # fmt: skip
    return finish_block(units, {"rule_tests": unit_frame("rule_tests", rows)})


def has_held(
    predicted: float, otherwise: float | None, match_mean: float | None, near_miss_mean: float | None
) -> bool | None:
    """Whether a rule's claim held, of normalised activations; none where nothing is claimed or was measured."""
    if otherwise is None or match_mean is None or near_miss_mean is None or predicted == otherwise:
        return None
    return (match_mean - near_miss_mean) / (predicted - otherwise) >= HELD_SHARE
