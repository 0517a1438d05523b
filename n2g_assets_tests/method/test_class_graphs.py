"""Stage ``neuron_graphs`` of the method ``evidence`` on toy rows: which documents count, which nodes are marked."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from n2g_assets.core.units import Unit
from n2g_assets.method.class_graphs import build_class_graphs
from n2g_assets.method.class_rows import graph_frames
from n2g_assets.method.classes import LaggedText, grow_graph
from n2g_assets.method.results import BlockResult
from n2g_assets_tests.method.class_harvest import OFFSETS, SETTINGS, Harvest
from n2g_assets_tests.method.slow_classes import questions_of
from n2g_assets_tests.method.toy import BOS, conform, vocabulary_of
from n2g_assets_tests.storage.helpers import rows

A_MAX = 4.0
UNITS = (Unit(7, 1), Unit(7, -1), Unit(9, 1))
TEST = {UNITS[0]: (5, 8), UNITS[1]: (5,), UNITS[2]: (2,)}
"""By unit, the numbers of its test documents."""
TRAIN = (0, 13, 20)
"""Contexts of the train side, one a rank."""
STARTS = (3, 1, 6)
"""By rank, where in the context the pruned prompt starts."""
KEPT = 6
VOCABULARY = vocabulary_of([f"w{number}" for number in range(12)])
TABLES = ("graph_nodes", "rules", "token_classes")


@pytest.fixture(scope="module")
def harvest() -> Harvest:
    return Harvest(0)


@pytest.fixture(scope="module")
def result(harvest) -> BlockResult:
    return built(harvest)


def contexts_of(harvest: Harvest) -> np.ndarray:
    return harvest.token_ids.reshape(-1, int(np.argmin(harvest.positions[1:])) + 1)


def inputs(harvest: Harvest) -> dict[str, pl.DataFrame]:
    """The rows of every unit: the contexts of ``TRAIN``, then one of each test document."""
    top, pruned, salient = [], [], []
    contexts, random = contexts_of(harvest), np.random.default_rng(1)
    for unit in UNITS:
        numbers = [*TRAIN, *(2 * document for document in TEST[unit])]
        for rank, number in enumerate(numbers):
            side = {"document_id": f"d{number // 2}", "split": "train" if rank < len(TRAIN) else "test"}
            top.append({**unit.key(), "rank": rank, "token_ids": contexts[number].tolist(), **side})
        for rank, start in enumerate(STARTS):
            pruned.append({**unit.key(), "rank": rank, "start": start})
            for position in (2, KEPT):
                measured = [0.0, *random.normal(0, 1, KEPT)]
                salient.append({**unit.key(), "rank": rank, "position": position, "importances": measured})
    made = {"top_examples": top, "pruned_examples": pruned, "saliencies": salient}
    return {table: rows(table, *records) for table, records in made.items()}


def built(harvest: Harvest, units: Sequence[Unit] = UNITS, threads: int = 2) -> BlockResult:
    """Unit 9 does half of what unit 7 does, and something of its own."""

    def read(unit: Unit) -> np.ndarray:
        raw = harvest.values if unit.number == 7 else harvest.values / 2 + (harvest.token_ids == 6)
        return (unit.sign * A_MAX * raw).astype(np.float32)

    def without(documents: Collection[str]) -> np.ndarray:
        out = [int(document[1:]) for document in documents]
        return (harvest.positions > 0) & ~np.isin(harvest.documents, out)

    return build_class_graphs(
        units, inputs(harvest), dict.fromkeys(UNITS, A_MAX), SETTINGS, text=harvest.text, read=read, without=without,
        vocabulary=VOCABULARY, threads=threads,
    )  # fmt: skip


def of(result: BlockResult, unit: Unit) -> dict[str, pl.DataFrame]:
    return {name: frame.filter(unit=unit.number, sign=unit.sign) for name, frame in result.tables.items()}


def test_each_unit_has_the_graph_that_is_grown_on_all_but_its_own_test_documents(harvest, result):
    assert sorted(result.tables) == sorted(TABLES)
    assert {unit: outcome.status for unit, outcome in result.ledger.items()} == dict.fromkeys(UNITS, "ok")
    for unit in UNITS:
        own = harvest.values if unit.number == 7 else harvest.values / 2 + (harvest.token_ids == 6)
        counted = [
            place
            for place, document in enumerate(harvest.documents.tolist())
            if harvest.positions[place] > 0 and document not in TEST[unit]
        ]
        values = np.float32(unit.sign) * own.astype(np.float32)
        graph = grow_graph(harvest.text, values, np.array(counted), BOS, SETTINGS.firing_threshold, SETTINGS)
        expected = graph_frames(unit, graph, {}, VOCABULARY)
        for name, frame in of(result, unit).items():
            conform(name, frame)
            unmarked = frame.with_columns(pl.lit(None, pl.Float32).alias("importance")) if name == TABLES[0] else frame
            assert_frame_equal(unmarked, expected[name])


def test_nothing_about_a_units_test_documents_changes_a_row_of_it(result):
    """Other words and activations there change the rows of those units alone whose train documents they are."""
    other = Harvest(0)
    [hit] = np.nonzero((other.documents == 5) & (other.positions > 0))
    other.token_ids[hit] = 4
    other.values[hit] = np.float32(1.5)
    other.text = LaggedText.of(other.token_ids, other.positions, other.documents, other.half, OFFSETS)
    changed = built(other)
    for unit in UNITS:
        same = [frame.equals(of(changed, unit)[name]) for name, frame in of(result, unit).items()]
        assert same == [5 in TEST[unit]] * 3


def test_a_node_is_marked_with_the_largest_importance_of_its_token_where_a_prompt_passes_through_it(harvest, result):
    marked = 0
    given = inputs(harvest)
    for unit in UNITS:
        found = of(result, unit)
        nodes = {row["node_id"]: row for row in found["graph_nodes"].iter_rows(named=True)}
        measured: dict[int, list[float]] = {node: [] for node in nodes}
        for row in given["saliencies"].filter(unit=unit.number, sign=unit.sign).iter_rows(named=True):
            context = contexts_of(harvest)[TRAIN[row["rank"]]].tolist()
            place = STARTS[row["rank"]] + row["position"] - 1
            for node in range(1, len(nodes)):
                kept = row["position"] + nodes[node]["offset"]
                asked = questions_of(nodes, found["token_classes"], node)
                if kept >= 1 and all(question.holds(context, place) for question in asked):
                    measured[node].append(row["importances"][kept])
        expected = [max(values, default=None) for values in measured.values()]
        assert [row["importance"] for row in nodes.values()] == expected
        marked += sum(value is not None for value in expected[1:])
        assert None in expected[1:]
    assert marked > 10


def test_neither_the_number_of_threads_nor_the_units_beside_it_change_a_units_rows(harvest, result):
    for threads in (1, 3):
        assert all(frame.equals(built(harvest, threads=threads).tables[name]) for name, frame in result.tables.items())
    alone = built(harvest, [UNITS[1]])
    assert list(alone.ledger) == [UNITS[1]]
    assert all(frame.equals(of(alone, UNITS[1])[name]) for name, frame in of(result, UNITS[1]).items())


def test_an_empty_block_has_the_schema_of_its_tables(harvest):
    empty = built(harvest, [])
    assert empty.ledger == {}
    assert all(conform(table, empty.tables[table]).is_empty() for table in TABLES)
