"""Stage ``rule_tests``: what the model does where a rule matches, and where it only nearly does.

1. Of each unit take the ``tested_rules`` rules that predict firing with the most prompts behind them; of equals the
   lower number.
2. A match is BOS, a run of 8 to 16 tokens of a random held-out context and the rule's tokens in text order, the
   activating token last. Where the rule takes any token, the run continues. A form stands for several tokens: one is
   drawn by how often each occurs in the contexts; where none occurs, the lowest token id is taken.
3. A near miss is a match with one required token changed:
   exchanged: a token of another form stands in its position;
   moved: a context token goes to the nearest position to its left that the rule leaves free, and a fresh token takes
   its old position; after the activating token a fresh token follows, which is read;
   removed: it is deleted, so that for the activating token the text ends with the token before it.
   The rule's context tokens are changed, in turns that continue from rule to rule: that another activating token is
   silent says little of a rule, as most tokens are. The activating token is changed where a rule has no context, and in
   those turns in which the graph still predicts firing whatever is drawn; ``near_miss_tokens`` says which was changed.
4. A match is kept if the unit's whole graph predicts firing at its end, a near miss if it neither matches the rule nor
   is predicted to fire; else it is drawn anew, up to ``ROUNDS`` times, and left out if none was found.
5. Measure all texts of all units in one call; the activation at the last token counts.

Each rule draws from a generator seeded from seed, layer, unit, sign and rule, and from the contexts alone, so that its
texts are the same whichever other rules and units are tested beside it.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import TypeVar

import numpy as np
import polars as pl
from jaxtyping import Bool, Int32, Int64

from n2g_assets.core.settings import PredictionSettings, RuleTestSettings
from n2g_assets.core.units import Unit
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.probing import Prober, Vocabulary
from n2g_assets.method.results import BlockResult, finish_block, rows_by_unit, unit_frame
from n2g_assets.method.text import EncodedText

CHANGES = EXCHANGED, MOVED, REMOVED = "exchanged", "moved", "removed"
"""Values of ``rule_tests.near_miss_changes``, in the order in which they take turns."""

CONTEXT, ACTIVATING = "context", "activating"
"""Values of ``rule_tests.near_miss_tokens``: which token of the rule was changed."""

FRESH_TOKENS = (8, 16)
"""Fewest and most tokens of fresh text before a rule's own."""

ROUNDS = 16
"""Times a text is drawn before it is left out."""

_DRAWS = 64
"""Fresh tokens looked at to find one of another form."""

Text = Int32[np.ndarray, " length"]
"""Token ids of one text, BOS at position 0."""

Wanted = TypeVar("Wanted", bound=Hashable)


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

    def token_of(self, form: int, generator: np.random.Generator) -> int:
        """A token id of a form, drawn by its frequency; the lowest where none occurs."""
        candidates = self.tokens_of[form]
        upto = np.cumsum(self.frequency[candidates])
        if not upto[-1]:
            return int(candidates[0])
        return int(candidates[np.searchsorted(upto, generator.integers(upto[-1]), side="right")])

    def token_unlike(self, form: int, generator: np.random.Generator) -> int | None:
        """A token id of another form, drawn by its frequency; none where hardly any other occurs."""
        drawn = self.tokens[generator.integers(len(self.tokens), size=_DRAWS)]
        unlike = drawn[self.vocabulary.form_of[drawn] != form]
        return int(unlike[0]) if len(unlike) else None


@dataclass(eq=False)
class RuleTrial:
    """One rule while its texts are drawn; lives only inside ``try_rules``."""

    unit: Unit
    rule_id: int
    forms: list[int | None]
    """Index into ``Vocabulary.forms`` from the activating token backwards; none: any token."""
    generator: np.random.Generator
    matches: list[Text] = field(default_factory=list)
    near_misses: list[tuple[Text, str, int]] = field(default_factory=list)
    """Each with its change and the offset of the changed token: tokens before the activating one."""

    @property
    def required(self) -> list[int]:
        """Tokens before the activating one, at which a form must stand; 0 is the activating token itself."""
        return [offset for offset, form in enumerate(self.forms) if form is not None]

    def draw_match(self, fresh: FreshText) -> Text:
        """A fresh context with the rule's tokens at its end (step 2)."""
        before = int(self.generator.integers(FRESH_TOKENS[0], FRESH_TOKENS[1] + 1))
        text = np.append(np.int32(fresh.vocabulary.bos_id), fresh.run(before + len(self.forms), self.generator))
        for offset, form in enumerate(self.forms):
            if form is not None:
                text[-1 - offset] = fresh.token_of(form, self.generator)
        return text.astype(np.int32)

    def draw_near_miss(self, number: int, change: str, offset: int, fresh: FreshText) -> Text | None:
        """A match with the token at an offset changed (step 3); none where it cannot be, or still matches the rule.

        ``number`` says which match: they take turns.
        """
        match, form = self.matches[number % len(self.matches)], self.forms[offset]
        position = len(match) - 1 - offset
        assert form is not None
        if change == REMOVED:
            text = np.delete(match, position)
        else:
            token = fresh.token_unlike(form, self.generator)
            if token is None:
                return None
            text = match.copy()
            if change == MOVED and offset:
                free = next(left for left in range(offset + 1, len(match)) if left not in self.required)
                text[-1 - free] = match[position]
            if change == MOVED and not offset:
                text = np.append(text, np.int32(token))
            else:
                text[position] = token
        form_of = fresh.vocabulary.form_of
        matches = len(text) > len(self.forms) and all(form_of[text[-1 - at]] == self.forms[at] for at in self.required)
        return None if matches else text


def try_rules(
    units: Sequence[Unit],
    rules: pl.DataFrame,
    graph_nodes: pl.DataFrame,
    fresh: FreshText,
    a_max: Mapping[Unit, float],
    prober: Prober,
    method: PredictionSettings,
    evaluation: RuleTestSettings,
) -> BlockResult:
    """Tests the rules of a block of units of the prober's layer on the model; rows of other units are ignored.

    Returns:
        Table ``rule_tests`` and a ledger entry for every unit; a unit without a rule that predicts firing has no
        rows. A rule for which no text was found has a row with counts of 0.

    Raises:
        RowsError: a graph's rows are damaged or belong to another vocabulary.
    """
    threshold = method.firing_threshold
    own_rules = rows_by_unit(units, rules.sort("rule_id"))
    trials: list[RuleTrial] = []
    for unit in units:
        claims = [rule for rule in own_rules[unit] if np.float32(rule["activation"]) >= np.float32(threshold)]
        chosen = sorted(claims, key=lambda rule: -rule["count"])[: evaluation.tested_rules]
        if not chosen:
            continue
        graph = TokenGraph.from_rows(graph_nodes.filter(unit=unit.number, sign=unit.sign), fresh.vocabulary)
        seed = [evaluation.seed, prober.layer, unit.number, int(unit.sign < 0)]
        own = [
            RuleTrial(
                unit,
                rule["rule_id"],
                [None if form is None else fresh.vocabulary.form_ids[form] for form in rule["tokens"]],
                np.random.default_rng(np.random.SeedSequence([*seed, rule["rule_id"]])),
            )
            for rule in sorted(chosen, key=lambda rule: rule["rule_id"])
        ]
        _draw_texts(own, graph, fresh, threshold, evaluation.rule_texts)
        trials += own
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
        silent, of_context = missed < threshold, np.array([offset > 0 for *_, offset in trial.near_misses], bool)
        rows.append({
            **trial.unit.key(), "rule_id": trial.rule_id,
            "n_matches": len(matched), "fired": int((matched >= threshold).sum()),
            "n_near_misses": len(missed), "silent": int(silent.sum()),
            "match_ids": [text.tolist() for text in trial.matches], "match_activations": matched,
            "near_miss_ids": [text.tolist() for text, *_ in trial.near_misses], "near_miss_activations": missed,
            "near_miss_changes": [change for _, change, _ in trial.near_misses],
            "near_miss_tokens": [CONTEXT if offset else ACTIVATING for *_, offset in trial.near_misses],
            "n_context_near_misses": int(of_context.sum()), "context_silent": int((of_context & silent).sum()),
        })  # fmt: skip
    return finish_block(units, {"rule_tests": unit_frame("rule_tests", rows)})


def turns(required: Sequence[int], start: int, number: int) -> list[tuple[str, int]]:
    """Changes and offsets of the turns from ``start`` on: each pair comes once before any comes again."""
    together = math.lcm(len(CHANGES), len(required))
    return [
        (CHANGES[turn % len(CHANGES)], required[(turn + turn // together) % len(required)])
        for turn in range(start, start + number)
    ]


def _draw_texts(
    trials: Sequence[RuleTrial], graph: TokenGraph, fresh: FreshText, threshold: float, number: int
) -> None:
    """Gives the rules of one unit up to ``number`` matches and near misses each, near misses in the order of turns."""

    def fires(texts: Sequence[Text]) -> Bool[np.ndarray, " texts"]:
        lasts = np.cumsum([len(text) for text in texts], dtype=np.int64) - 1
        return graph.predict(EncodedText.from_contexts(texts, fresh.vocabulary))[lasts] >= np.float32(threshold)

    places = [(trial, place) for trial in trials for place in range(number)]
    for (trial, _), text in _draw_until(fires, places, lambda wanted, _: wanted[0].draw_match(fresh)).items():
        trial.matches.append(text)
    near_misses: dict[tuple[RuleTrial, int], tuple[Text, str, int]] = {}  # by rule and turn
    for of_context in (True, False):
        wanted = [
            (trial, turn, change, offset)
            for trial in trials
            if trial.matches
            if (offsets := [offset for offset in trial.required if bool(offset) == of_context])
            for turn, (change, offset) in enumerate(turns(offsets, trial.rule_id * number, number))
            if (trial, turn) not in near_misses
        ]
        found = _draw_until(
            lambda texts: ~fires(texts),
            wanted,
            lambda wanted, attempt: wanted[0].draw_near_miss(wanted[1] + attempt, *wanted[2:], fresh),
        )
        near_misses |= {(trial, turn): (text, change, at) for (trial, turn, change, at), text in found.items()}
    for trial in trials:
        trial.near_misses = [near_misses[trial, turn] for turn in range(number) if (trial, turn) in near_misses]


def _draw_until(
    good: Callable[[Sequence[Text]], Bool[np.ndarray, " texts"]],
    wanted: Sequence[Wanted],
    draw: Callable[[Wanted, int], Text | None],
) -> dict[Wanted, Text]:
    """A good text for each thing that is wanted, in the order of finding; ``draw`` is told the round.

    A text that is not good is drawn anew, up to ``ROUNDS`` times. All texts of a round are judged together.
    """
    found: dict[Wanted, Text] = {}
    for attempt in range(ROUNDS):
        missing = [request for request in wanted if request not in found]
        drawn = {request: text for request in missing if (text := draw(request, attempt)) is not None}
        if drawn:
            found |= compress(drawn.items(), good(list(drawn.values())))
    return found
