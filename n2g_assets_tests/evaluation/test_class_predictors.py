"""The graph of token classes as a predictor and its sum with suffix evidence: what they learn from, and what not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from n2g_assets.evaluation.material import UnitMaterial
from n2g_assets.evaluation.predictors import combined, graph, skip_bigram, suffixes
from n2g_assets.evaluation.thresholds import left_out_predictions
from n2g_assets_tests.evaluation.slow_evaluation import unit_material
from n2g_assets_tests.evaluation.small_layer import A_MAX, METHOD, UNITS, small_layer


@pytest.fixture(scope="module", params=UNITS, ids=str)
def material(request) -> UnitMaterial:
    return unit_material(small_layer(1, preset="evidence"), request.param)


def with_activations(material: UnitMaterial, where: np.ndarray, change: Callable[[np.ndarray], np.ndarray]):
    """The unit with other activations at some tokens of the harvest, and the same rows."""
    row = material.read_harvest()
    return replace(material, read_harvest=lambda: np.where(where, change(row), row).astype(np.float32), _made={})


def turned(row: np.ndarray) -> np.ndarray:
    return A_MAX - row


# ------------------------------------------------------------------------------------------ the graph
def test_what_a_unit_does_in_a_document_changes_no_prediction_of_that_document(material):
    harvest, before = material.shared.harvest(), graph.fit(material).left_out
    elsewhere = 0
    for number, _ in enumerate(harvest.text.document_ids):
        own = (harvest.text.documents == number) & material.harvest_labels.counted
        after = graph.fit(with_activations(material, own, turned)).left_out
        assert np.array_equal(after[own], before[own])
        elsewhere += np.count_nonzero(after != before)
    assert elsewhere > 0


def test_what_a_unit_does_in_its_test_documents_changes_no_left_out_prediction(material):
    fitted, out = graph.fit(material), material.shared.harvest().inside(material.left_out)
    other = graph.fit(with_activations(material, out, turned))
    sizes = [2, 5, METHOD.max_rules]
    assert np.array_equal(other.left_out_by_size(sizes), fitted.left_out_by_size(sizes))


def test_the_largest_of_the_sizes_is_the_graph_that_is_scored(material):
    fitted = graph.fit(material)
    by_size = fitted.left_out_by_size([1, 3, METHOD.max_rules])
    assert np.array_equal(by_size[2], fitted.left_out)
    counted = material.harvest_labels.counted
    assert len(np.unique(by_size[0][counted])) == 2  # the mean of each fold
    assert 2 < len(np.unique(by_size[1][counted])) < len(np.unique(by_size[2][counted]))


# ------------------------------------------------------------------------------------------ the combination
def left_out_of(material: UnitMaterial) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """At the tokens that count: what the combination says, what its parts say, and what is so."""
    counted = material.harvest_labels.counted
    fitted = combined.fit(material)
    parts = [left_out_predictions(*part, material) for part in fitted.parts.items()]
    said = [part[counted].astype(np.float64) for part in (fitted.left_out, *parts)]
    return said[0], said[1:], material.harvest_labels.values[counted].astype(np.float64)


def test_what_its_weights_leave_over_has_nothing_in_common_with_either_part_or_a_constant(material):
    """The normal equations of least squares."""
    said, parts, actual = left_out_of(material)
    for column in (*parts, np.ones(len(actual))):
        assert abs((actual - said) @ column) <= 1e-5 * len(actual)


def test_on_left_out_documents_it_is_at_least_as_good_as_either_part(material):
    said, parts, actual = left_out_of(material)
    errors = [float(np.sum((actual - part) ** 2)) for part in (said, *parts)]
    assert errors[0] <= min(errors[1:]) + 1e-6
    assert errors[0] < 0.999 * min(errors[1:])


def test_it_predicts_by_the_parts_that_are_scored_alone_and_nothing_at_bos(material):
    text = material.shared.harvest().text.encoded
    told = [part.fit(material).predict(text) for part in (graph, suffixes, skip_bigram)]
    found = combined.fit(material).predict(text)
    inside = text.positions > 0
    assert not found[~inside].any()
    columns = np.column_stack([*(part[inside] for part in told), np.ones(np.count_nonzero(inside))]).astype(np.float64)
    weights = np.linalg.lstsq(columns, found[inside].astype(np.float64), rcond=None)[0]
    assert np.abs(columns @ weights - found[inside]).max() < 1e-5  # the same weights at every token
    assert combined.fit(material).parts["graph"] is graph.fit(material)


def test_what_a_unit_does_in_its_test_documents_changes_nothing_of_it(material):
    text, out = material.shared.harvest().text.encoded, material.shared.harvest().inside(material.left_out)
    before, after = combined.fit(material), combined.fit(with_activations(material, out, turned))
    assert out.any()
    assert np.array_equal(after.predict(text), before.predict(text))
    counted = material.harvest_labels.counted
    assert np.array_equal(after.left_out[counted], before.left_out[counted])
    assert not np.array_equal(
        combined.fit(with_activations(material, counted, turned)).predict(text), before.predict(text)
    )
