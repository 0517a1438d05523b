"""What is derived from the activations at every token, against its definition in loops."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.tables import TABLES
from n2g_assets.core.units import Unit
from n2g_assets.evidence import derive as module
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.derive import QUANTILES, Read, derive
from n2g_assets.evidence.precision import decode, encode

MASK = 2**64 - 1


@dataclass
class Case:
    """A made-up corpus with the activations of a few neurons, and how many rows are asked for."""

    documents: list[int]
    """Of each context."""
    contexts: list[np.ndarray]
    """Activations [neuron, pos] of each context."""
    exact: list[np.ndarray]
    """The same in float32, for a case whose ``contexts`` are coarse."""
    units: list[Unit]
    strongest: int
    top_contexts: int
    per_document: int
    asked: list[list[str]] = field(default_factory=list)
    """The contexts that were measured again, by call."""

    def id(self, context: int) -> str:
        return f"doc{self.documents[context]}:{context}"

    def corpus(self) -> TokenCorpus:
        rows = [(self.id(c), f"doc{self.documents[c]}", [1] * a.shape[1]) for c, a in enumerate(self.contexts)]
        schema = {"context_id": pl.String, "document_id": pl.String, "token_ids": pl.List(pl.Int32)}
        return TokenCorpus.from_frame(pl.DataFrame(rows, schema=schema, orient="row"))

    def remeasure(self, context_ids: pl.Series) -> Read:
        self.asked.append(context_ids.to_list())
        number = {self.id(c): c for c in range(len(self.contexts))}
        return reader([self.exact[number[context_id]] for context_id in context_ids])

    def derive(self, again: bool = False, **more) -> dict[str, pl.DataFrame]:
        return derive(
            reader(self.contexts),
            self.corpus(),
            self.units,
            strongest=self.strongest,
            top_contexts=self.top_contexts,
            contexts_per_document=self.per_document,
            remeasure=self.remeasure if again else None,
            **more,
        )


def reader(contexts: Sequence[np.ndarray]) -> Read:
    rows = np.concatenate(contexts, axis=1).astype(np.float32)
    rows.flags.writeable = False  # as the rows of a memory-mapped store are
    return lambda neurons: rows[list(neurons)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Few different activations, so that most are equal to others; contexts of 1 to 6 tokens."""
    sizes = draw(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=5))
    sizes[0][0] = max(2, sizes[0][0])
    documents = [number for number, lengths in enumerate(sizes) for _ in lengths]
    values = st.sampled_from([-2.0, -1.0, -0.0, 0.0, 1.0, 1.5, 3.0])
    exact = [
        np.array(draw(st.lists(st.lists(values, min_size=n, max_size=n), min_size=3, max_size=3)), np.float32)
        for lengths in sizes
        for n in lengths
    ]
    units = draw(st.lists(st.sampled_from([Unit(n, s) for n in range(3) for s in (1, -1)]), min_size=1, unique=True))
    numbers = [draw(st.integers(1, top)) for top in (30, 6, 3)]
    return Case(documents, exact, exact, units, *numbers)


# ------------------------------------------------------------------------------------------ the definition in loops
Entry = tuple[float, int, int]
"""Activation, context and position."""


def entries(contexts: Sequence[np.ndarray], unit: Unit) -> list[Entry]:
    """All positions above 0, strongest first."""
    found = [(-unit.sign * a[unit.number, p], c, p) for c, a in enumerate(contexts) for p in range(1, a.shape[1])]
    return [(float(-value) + 0.0, context, position) for value, context, position in sorted(found)]


def best_contexts(found: Sequence[Entry], documents: Sequence[int], keep: int, per_document: int) -> list[Entry]:
    taken: list[Entry] = []
    for entry in found:
        same = sum(documents[other[1]] == documents[entry[1]] for other in taken)
        if len(taken) < keep and same < per_document and all(other[1] != entry[1] for other in taken):
            taken.append(entry)
    return taken


def shortlist(found: Sequence[Entry], documents: Sequence[int], keep: int, per_document: int) -> list[Entry]:
    last = best_contexts(found, documents, keep, per_document)[-1][0]
    listed = best_contexts(found, documents, len(documents), 2 * per_document)
    return listed[: max(2 * keep, sum(value >= last - module._SLACK * abs(last) for value, _, _ in listed))]


def position_hash(context_id: str, position: int) -> int:
    number = int.from_bytes(hashlib.blake2b(context_id.encode(), digest_size=8).digest(), "big")
    number = (number + position * 0x9E3779B97F4A7C15) & MASK
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) & MASK
    return (number ^ (number >> 31)) >> 1


def expected(case: Case, sample: int, again: bool = False) -> dict[str, list[tuple]]:
    """The rows of the tables, by the definition."""
    keep, cap, documents = case.top_contexts, case.per_document, case.documents
    units, values = sorted(case.units), case.exact if again else case.contexts
    lists = {unit: entries(case.contexts, unit) for unit in units}
    short = {unit: {c for _, c, _ in shortlist(lists[unit], documents, keep, cap)} for unit in units}
    measured = set().union(*short.values()) if again else set()
    names = ("neuron_stats", "activations", "top_contexts", "sampled_positions", "sampled_activations")
    rows: dict[str, list[tuple]] = {name: [] for name in names}
    for unit in units:
        key, found = tuple(unit), lists[unit]
        top = found
        if again:
            top = [entry for entry in entries(case.exact, unit) if entry[1] in short[unit]]
        top = best_contexts(top, documents, keep, cap)
        for rank, (value, context, position) in enumerate(top):
            window = [unit.sign * value for value in values[context][unit.number].tolist()]
            rows["top_contexts"].append((*key, rank, case.id(context), position, value, window))
        strong = found[: case.strongest]
        if again:
            strong = [
                (-unit.sign * (case.exact if c in measured else case.contexts)[c][unit.number, p], c, p)
                for _, c, p in strong
            ]
            strong = [(-value, context, position) for value, context, position in sorted(strong)]
        for rank, (value, context, position) in enumerate(strong):
            rows["activations"].append((*key, rank, case.id(context), position, value))
        every = np.array([value for value, _, _ in found])
        chosen = sorted(found, key=lambda entry: position_hash(case.id(entry[1]), entry[2]))[:sample]
        quantiles = np.quantile([value for value, _, _ in chosen], QUANTILES).tolist()
        moments = (len(every), every.mean(), every.std(), top[0][0], (every > 0).mean(), quantiles)
        rows["neuron_stats"].append((*key, *moments))
        rows["sampled_positions"] = [(place, case.id(c), p) for place, (_, c, p) in enumerate(chosen, start=1)]
        rows["sampled_activations"].append((*key, [value for value, _, _ in chosen]))
    return rows


def assert_rows(found: dict[str, pl.DataFrame], rows: dict[str, list[tuple]]) -> None:
    assert found["activations"].rows() == rows["activations"]
    assert found["top_contexts"].rows() == rows["top_contexts"]
    for name in ("activations", "top_contexts"):
        assert not np.signbit(found[name].filter(activation=0)["activation"].to_numpy()).any(), "-0.0 becomes 0.0"
    for mine, theirs in zip(found["neuron_stats"].rows(), rows["neuron_stats"], strict=True):
        assert [mine[at] for at in (0, 1, 2, 5, 6)] == [theirs[at] for at in (0, 1, 2, 5, 6)]
        np.testing.assert_allclose(mine[3:5], theirs[3:5], atol=1e-7)
        np.testing.assert_allclose(mine[7], theirs[7], atol=1e-6)
    positions, vectors = found["sampled_positions"], found["sampled_activations"]
    assert positions.select("place", "context_id", "position").rows() == rows["sampled_positions"]
    assert set(positions["sample"]) == set(vectors["sample"])
    for (unit, sign, mean, length, deviations), (*key, values) in zip(
        vectors.drop("sample").iter_rows(), rows["sampled_activations"], strict=True
    ):
        assert [unit, sign] == key
        assert mean == pytest.approx(np.mean(values), abs=1e-7)
        assert length == pytest.approx(np.std(values) * np.sqrt(len(values)), abs=1e-6)
        assert (deviations is None) == (len(set(values)) == 1)
        if deviations is not None:
            np.testing.assert_allclose(mean + length * np.array(deviations), values, atol=1e-6)


@given(cases(), st.integers(1, 40))
def test_rows_are_those_of_the_definition_whatever_is_equal_short_or_missing(case, sample):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SAMPLE", sample)
        assert_rows(case.derive(), expected(case, sample))


@given(cases(), st.data())
def test_coarse_activations_give_a_shortlist_that_is_measured_again_once(case, data):
    steps = [data.draw(st.sampled_from([0.5, 2.0, 4.0])) for _ in case.exact]
    case.contexts = [np.round(a / step) * step for a, step in zip(case.exact, steps, strict=True)]
    assert_rows(case.derive(again=True), expected(case, module.SAMPLE, again=True))
    (asked,) = case.asked
    assert asked == sorted(asked, key=lambda context_id: int(context_id.split(":")[1])), "in the order of the corpus"


def test_contexts_that_int8_cannot_tell_apart_are_all_measured_again():
    exact = [np.array([[0, value]], np.float32) for value in np.linspace(7.95, 8, 90)]
    codes = np.empty((1, 180), np.int8)
    scales = encode(np.concatenate(exact, axis=1), codes)
    coarse = [each[None] for each in np.split(decode(codes[0], float(scales[0])), 90)]
    assert len(np.unique(coarse)) == 2, "0 and one code for all"
    case = Case(list(range(90)), coarse, exact, [Unit(0, 1)], 4, 20, 2)
    found = case.derive(again=True)
    assert found["top_contexts"]["context_id"].to_list() == [case.id(context) for context in range(89, 69, -1)]
    assert found["neuron_stats"]["max"].to_list() == [8]


@settings(max_examples=30)
@given(cases(), st.integers(1, 3))
def test_the_block_size_changes_nothing(case, block):
    for again in (False, True):
        for name, frame in case.derive(again, block=block).items():
            assert frame.equals(case.derive(again, block=64)[name])


def test_rows_have_the_columns_and_types_of_their_tables_in_the_order_of_the_key():
    rng = np.random.default_rng(0)
    contexts = [rng.normal(size=(3, n)).astype(np.float32) for n in (1, 5, 6, 2)]
    found = Case([0, 0, 1, 2], contexts, contexts, [Unit(2, 1), Unit(0, 1), Unit(0, -1)], 4, 3, 1).derive()
    for name, frame in found.items():
        rows = frame.with_columns(study=pl.lit("s"), layer=pl.lit(0, pl.Int32))
        table = TABLES[name]
        assert rows.select(table.schema.names()).equals(table.conform(rows))
        assert dict(frame.schema) == {each: dtype for each, dtype in table.schema.items() if each in frame.columns}
