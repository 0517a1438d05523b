"""Stage ``rule_tests`` of the method ``evidence``: what the model does where a rule's classes match, and where not.

1. In each unit's graph of ``SHOWN_RULES`` rules take the ``tested_rules`` rules whose expected activation differs most
   from the unit's mean, of those that text supports and that name a class: not only what is left out; of equals the
   lower node.
2. A match is BOS, a run of 8 to 16 tokens of a random held-out context, and a token for each offset from the farthest
   that the rule asks about to 0: a member of the rule's class; a fresh token but those that the rule leaves out; where
   the rule asks nothing, the run continues. The first half of the matches draws members by how often the harvest has
   them in that place. The second half draws each member of the *rare half* alike, the members with the lowest counts:
   tokens, and above all combinations of them, that were hardly ever seen there.
3. A near miss is a match with one member exchanged for a fresh token outside the class. The classes take turns, that of
   the activating token first, then those of the context.
4. A text ends in a rule exactly where each class of the rule takes its token. So every match ends in the rule, and
   every near miss in another one, of which the graph expects something else. What it expects of the matches is their
   mean: the tokens of a class differ.
5. Measure all texts of all units, and grade the rules (``trials``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from jaxtyping import Int32, Int64

from n2g_assets.core.registry import SHOWN_RULES
from n2g_assets.core.settings import RuleTestSettings
from n2g_assets.core.units import Unit
from n2g_assets.evaluation.trials import EXCHANGED, FreshText, Text, Trial, generator_of, measure_trials
from n2g_assets.method.class_rows import TokenClass, classes_of, graph_of_rows
from n2g_assets.method.classes import ClassGraph
from n2g_assets.method.probing import Prober
from n2g_assets.method.results import BlockResult


@dataclass(frozen=True)
class Members:
    """What may be drawn from the class of a rule at one offset; never BOS, which stands at position 0 alone."""

    tokens: Int32[np.ndarray, " members"]
    """Token ids, the rarest first."""
    upto: Int64[np.ndarray, " members"]
    """Harvested positions of each and all before it."""

    @classmethod
    def of(cls, graph: ClassGraph, node: int, found: TokenClass) -> "Members":
        """The members of a class of the rule that ends at a node, counted where the class was split off.

        Those that the harvest does not have are none: the rule does not claim to have seen what they do in text.
        """
        nearest = next(
            step for step in graph.path(node) if graph.offsets[step] == found.offset and not graph.all_but[step]
        )
        tokens, counts = graph.tokens[graph.members(nearest)], graph.counts[graph.members(nearest)]
        kept = np.flatnonzero(np.isin(tokens, found.tokens) & (tokens != graph.bos_id) & (counts > 0))
        order = kept[np.argsort(counts[kept], kind="stable")]
        return cls(tokens[order], np.cumsum(counts[order]))

    def draw(self, rare: bool, generator: np.random.Generator) -> int | None:
        """One by its count, or each of the rare half alike; none where no text has a member but BOS."""
        if not len(self.tokens):
            return None
        if rare:
            return int(self.tokens[generator.integers((len(self.tokens) + 1) // 2)])
        return int(self.tokens[np.searchsorted(self.upto, generator.integers(self.upto[-1]), side="right")])


@dataclass(eq=False, kw_only=True)
class ClassTrial(Trial):
    """One rule of a graph of token classes while its texts are drawn and measured."""

    classes: Sequence[TokenClass]
    members: Mapping[int, Members]
    """By offset, of the classes that are not ``all_but``."""

    def draw_texts(self, number: int, fresh: FreshText) -> None:
        """Draws up to ``number`` matches and near misses; one for which nothing can be drawn is left out."""
        for place in range(number):
            match = self._draw_match(2 * place >= number, fresh)
            if match is not None:
                self.matches.append(match)
        required = [each for each in self.classes if each.offset in self.members]
        for turn in range(number if self.matches else 0):
            exchanged = required[turn % len(required)]
            token = fresh.token_outside(exchanged.tokens, self.generator)
            if token is not None:
                text = self.matches[turn % len(self.matches)].copy()
                text[exchanged.offset - 1] = token
                self.near_misses.append((text, EXCHANGED, -exchanged.offset))

    def _draw_match(self, rare: bool, fresh: FreshText) -> Text | None:
        text = fresh.begin(1 - self.classes[-1].offset, self.generator)
        for each in self.classes:
            if each.all_but:
                token = fresh.token_outside(each.tokens, self.generator)
            else:
                token = self.members[each.offset].draw(rare, self.generator)
            if token is None:
                return None
            text[each.offset - 1] = token
        return text


def try_class_rules(
    units: Sequence[Unit],
    rules: pl.DataFrame,
    graph_nodes: pl.DataFrame,
    token_classes: pl.DataFrame,
    fresh: FreshText,
    a_max: Mapping[Unit, float],
    prober: Prober,
    threshold: float,
    evaluation: RuleTestSettings,
) -> BlockResult:
    """Tests the rules of a block of units of the prober's layer on the model; rows of other units are ignored.

    Returns:
        Table ``rule_tests`` and a ledger entry for every unit; a unit without a rule that names a class has no rows. A
        rule for which no text was found has a row with counts of 0.
    """
    trials: list[ClassTrial] = []
    for unit in units:
        own = {"unit": unit.number, "sign": unit.sign}
        graph = graph_of_rows(graph_nodes.filter(**own), token_classes.filter(**own), fresh.vocabulary.bos_id)
        rule_of = dict(rules.filter(**own).select("end_node_id", "rule_id").iter_rows())
        of_unit = []
        for node, classes in rules_to_test(graph, evaluation.tested_rules).items():
            trial = ClassTrial(
                unit=unit,
                rule_id=rule_of[node],
                predicted=float(graph.values[node]),
                generator=generator_of(evaluation.seed, prober.layer, unit, node),
                classes=classes,
                members={each.offset: Members.of(graph, node, each) for each in classes if not each.all_but},
            )
            trial.draw_texts(evaluation.rule_texts, fresh)
            if trial.matches:
                trial.predicted = float(np.mean(expected(graph, trial.matches)))
            trial.near_miss_expected = expected(graph, [text for text, *_ in trial.near_misses])
            of_unit.append(trial)
        trials += sorted(of_unit, key=lambda trial: trial.rule_id)
    return measure_trials(units, trials, a_max, prober, threshold)


def rules_to_test(graph: ClassGraph, number: int) -> dict[int, list[TokenClass]]:
    """The nodes at which the rules end that are tested (step 1), and the classes of each."""
    nodes = graph.rules_of(SHOWN_RULES)
    nodes = nodes[graph.supports[nodes] > 0]
    order = np.argsort(-np.abs(graph.values[nodes] - graph.values[:1]), kind="stable")
    found = {int(node): classes_of(graph, int(node)) for node in nodes[order]}
    naming = [node for node, classes in found.items() if not all(each.all_but for each in classes)]
    return {node: found[node] for node in naming[:number]}


def expected(graph: ClassGraph, texts: Sequence[Text]) -> list[float]:
    """What the graph of ``SHOWN_RULES`` rules expects at the last token of each text."""
    told = (graph.predict_sizes(text, np.arange(len(text), dtype=np.int32), [SHOWN_RULES])[0, -1] for text in texts)
    return [float(activation) for activation in told]
