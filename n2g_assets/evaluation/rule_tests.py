"""Stage ``rule_tests`` of the method ``paper``: what the model does where a rule matches, and where it nearly does.

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
5. Measure all texts of all units (``trials``).
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TypeVar

import numpy as np
import polars as pl
from jaxtyping import Bool

from n2g_assets.core.settings import PredictionSettings, RuleTestSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.trials import (
    CHANGES,
    MOVED,
    REMOVED,
    FreshText,
    Text,
    Trial,
    generator_of,
    measure_trials,
)
from n2g_assets.method.predict import TokenGraph
from n2g_assets.method.probing import Prober
from n2g_assets.method.results import BlockResult, rows_by_unit
from n2g_assets.method.text import EncodedText

ROUNDS = 16
"""Times a text is drawn before it is left out."""

Wanted = TypeVar("Wanted", bound=Hashable)


@dataclass(eq=False, kw_only=True)
class RuleTrial(Trial):
    """One rule of a trie while its texts are drawn and measured."""

    forms: list[int | None]
    """Index into ``Vocabulary.forms`` from the activating token backwards; none: any token."""

    @property
    def required(self) -> list[int]:
        """Tokens before the activating one, at which a form must stand; 0 is the activating token itself."""
        return [offset for offset, form in enumerate(self.forms) if form is not None]

    def draw_match(self, fresh: FreshText) -> Text:
        """A fresh context with the rule's tokens at its end (step 2)."""
        text = fresh.begin(len(self.forms), self.generator)
        for offset, form in enumerate(self.forms):
            if form is not None:
                text[-1 - offset] = fresh.token_of(form, self.generator)
        return text

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
        own = [
            RuleTrial(
                unit=unit,
                rule_id=rule["rule_id"],
                predicted=rule["activation"],
                generator=generator_of(evaluation.seed, prober.layer, unit, rule["rule_id"]),
                forms=[None if form is None else fresh.vocabulary.form_ids[form] for form in rule["tokens"]],
            )
            for rule in sorted(chosen, key=lambda rule: rule["rule_id"])
        ]
        _draw_texts(own, graph, fresh, threshold, evaluation.rule_texts)
        trials += own
    return measure_trials(units, trials, a_max, prober, threshold)


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
