"""Baselines that learn from the harvest: by hand, and against dictionaries that follow the definitions run by run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from n2g_assets.core.errors import RowsError
from n2g_assets.evaluation.predictors.ngram_backoff import fit_backoff
from n2g_assets.evaluation.predictors.skip_bigram import fit_skip_bigrams
from n2g_assets.evaluation.texts import DocumentText, HarvestLabels, HarvestText
from n2g_assets.method.text import EncodedText
from n2g_assets_tests.evaluation.slow_baselines import slow_backoff, slow_evidence, slow_skip_bigrams
from n2g_assets_tests.method.toy import BOS, vocabulary_of

WORDS = [*"abcdefgh"]
VOCABULARY = vocabulary_of([*WORDS, " Cat", "cat"])
A_MAX = 2.0


def ids(words: str) -> list[int]:
    """Token ids of BOS and of one-letter words."""
    return [BOS, *(VOCABULARY.tokens.index(word.encode()) for word in words)]


def forms(token_ids) -> list[int]:
    return VOCABULARY.form_of[token_ids].tolist()


def text_of(*contexts: str) -> EncodedText:
    return EncodedText.from_contexts([np.array(ids(words)) for words in contexts], VOCABULARY)


@dataclass
class Corpus:
    """A tiny harvest: by context id, its document and words; what the unit does, in raw activations."""

    contexts: dict[str, tuple[str, list[int]]]
    listed: list[tuple[str, int, float]]
    train: dict[str, list[float]]
    test_documents: set[str]
    cluster_of: dict[str, str]
    strongest: int = 100
    threshold: float = 0.5

    @property
    def harvest(self) -> HarvestText:
        rows = [(name, document, token_ids) for name, (document, token_ids) in self.contexts.items()]
        schema = {"context_id": pl.String, "document_id": pl.String, "token_ids": pl.List(pl.Int32)}
        text = DocumentText.of(pl.DataFrame(rows, schema=schema, orient="row"), VOCABULARY)
        return HarvestText(text, self.cluster_of)

    @property
    def labels(self) -> HarvestLabels:
        listed_schema = {"context_id": pl.String, "position": pl.Int32, "activation": pl.Float32}
        train_schema = {"context_id": pl.String, "activations": pl.List(pl.Float32)}
        return HarvestLabels.of(
            self.harvest,
            pl.DataFrame(self.listed, schema=listed_schema, orient="row"),
            pl.DataFrame(list(self.train.items()), schema=train_schema, orient="row"),
            self.test_documents,
            A_MAX,
            strongest=self.strongest,
            threshold=self.threshold,
        )

    @property
    def slow(self) -> dict[str, list[float | None]]:
        contexts = {name: (document, forms(tokens)) for name, (document, tokens) in self.contexts.items()}
        return slow_evidence(
            contexts, self.cluster_of, self.listed, self.train, self.test_documents, A_MAX, self.strongest,
            self.threshold,
        )  # fmt: skip

    @property
    def known(self) -> dict[str, list[float | None]]:
        """The evidence as the slow one gives it."""
        harvest, labels = self.harvest, self.labels
        return {
            name: [float(labels.values[first + i]) if labels.counted[first + i] else None for i in range(len(tokens))]
            for (name, (_, tokens)), first in zip(self.contexts.items(), harvest.offsets.values(), strict=True)
        }


def corpus(contexts: dict[str, str], listed=(), train=None, test_documents=(), **more) -> Corpus:
    """Contexts by id, ``document:number``, each a string of one-letter words."""
    made = {name: (name.split(":")[0], ids(words)) for name, words in contexts.items()}
    return Corpus(made, list(listed), train or {}, set(test_documents), more.pop("cluster_of", {}), **more)


# ------------------------------------------------------------------------------------------ harvest and evidence
def test_the_harvest_is_its_contexts_one_behind_another_by_form_and_cluster():
    cat, titled = VOCABULARY.tokens.index(b"cat"), VOCABULARY.tokens.index(b" Cat")
    made = corpus({"x:0": "ab", "y:0": "c", "z:0": "d"}, cluster_of={"x": "one", "z": "one"})
    made.contexts["y:0"] = ("y", [BOS, cat, titled])
    harvest = made.harvest
    assert harvest.text.encoded.positions.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert harvest.text.encoded.forms[4] == harvest.text.encoded.forms[5] == VOCABULARY.form_of[cat]
    assert harvest.offsets == {"x:0": 0, "y:0": 3, "z:0": 6}
    assert harvest.inside({"z"}).tolist() == [True, True, True, False, False, False, True, True]
    assert harvest.inside({"unheard of"}).tolist() == [False] * 8


def test_train_windows_are_known_listed_tokens_too_and_all_else_is_silent():
    made = corpus(
        {"x:0": "ab", "y:0": "ab", "z:0": "ba"},
        listed=[("x:0", 2, 2.0), ("y:0", 1, 0.5)],
        train={"x:0": [9.0, -1.0, 2.0]},
    )
    assert made.known == {"x:0": [None, 0.0, 1.0], "y:0": [None, 0.25, 0.0], "z:0": [None, 0.0, 0.0]}
    assert made.labels.mean == pytest.approx(1.25 / 6)


def test_documents_of_the_test_side_and_their_near_duplicates_are_no_evidence():
    made = corpus(
        {"x:0": "ab", "copy:0": "ab", "y:0": "ab"},
        listed=[("x:0", 1, 2.0), ("copy:0", 1, 2.0), ("y:0", 1, 1.0)],
        train={"copy:0": [0.0, 2.0, 2.0]},
        test_documents={"x"},
        cluster_of={"x": "pair", "copy": "pair"},
    )
    assert made.known == {"x:0": [None] * 3, "copy:0": [None] * 3, "y:0": [None, 0.5, 0.0]}


@pytest.mark.parametrize("fit", [fit_backoff, fit_skip_bigrams])
@pytest.mark.parametrize("floor", [0.5, 1.0])
def test_evidence_planted_in_a_test_document_changes_nothing(fit, floor):
    """Neither text nor activations there; of the list only its length tells whether it is full."""
    contexts = {"x:0": "abcab", "y:0": "abab", "test:0": "gg", "copy:0": "gg"}
    clusters = {"test": "pair", "copy": "pair"}
    listed = [("x:0", 2, 2.0), ("x:0", 5, 1.5), ("y:0", 2, floor), ("test:0", 1, floor + 0.1)]
    plain = corpus(contexts, listed, {}, {"test"}, cluster_of=clusters, strongest=3)
    planted = corpus(
        contexts | {"test:0": "abcab", "copy:0": "abcdeab"},
        [*listed[:3], ("test:0", 2, 2.0), ("copy:0", 2, 0.1), ("copy:0", 5, 2.0)],
        {"copy:0": [0, 2, 2, 2, 2, 2, 2, 2]},
        {"test"},
        cluster_of=clusters,
        strongest=3,
    )
    text = text_of("abcdeab", "cab", "b", "g", "de", "gg")
    predictions = [fit(one.labels).predict(text) for one in (plain, planted)]
    assert predictions[0].any()
    assert predictions[0].tolist() == predictions[1].tolist()


def test_where_the_list_is_full_of_firings_unlisted_tokens_of_its_forms_are_unknown():
    contexts = {"x:0": "ab", "y:0": "bc", "z:0": "bc"}
    listed = [("x:0", 2, 2.0), ("y:0", 1, 1.0)]
    train = {"z:0": [0.0, 0.5, 0.0]}
    full = corpus(contexts | {"w:0": "ba"}, listed, train, strongest=2)
    assert full.known == {
        "x:0": [None, 0.0, 1.0], "y:0": [None, 0.5, 0.0], "z:0": [None, 0.25, 0.0], "w:0": [None, None, 0.0],
    }  # fmt: skip
    assert corpus(contexts | {"w:0": "ba"}, listed, train, strongest=3).known["w:0"] == [None, 0.0, 0.0]
    listed[1] = ("y:0", 1, 0.9)
    assert corpus(contexts | {"w:0": "ba"}, listed, train, strongest=2).known["w:0"] == [None, 0.0, 0.0]


def test_a_context_that_was_not_harvested_and_a_nan_are_errors():
    with pytest.raises(RowsError, match="q:7"):
        _ = corpus({"x:0": "ab"}, listed=[("q:7", 1, 1.0)]).labels
    with pytest.raises(ValueError, match="NaN"):
        _ = corpus({"x:0": "ab"}, train={"x:0": [0.0, float("nan"), 0.0]}).labels


@st.composite
def corpora(draw) -> Corpus:
    """Tiny harvests with near-duplicates, full and short lists, train and test documents."""
    words = st.text("abcde", min_size=0, max_size=12)
    names = [f"{document}:{number}" for document in "uvwxyz" for number in (0, 1)]
    contexts = {name: draw(words) for name in names}
    values = st.sampled_from([-0.5, 0.0, 0.2, 0.5, 1.0, 1.0, 1.5, 2.0])
    places = [(name, position) for name in names for position in range(1, len(contexts[name]) + 1)]
    chosen = draw(st.lists(st.sampled_from(places), unique=True, max_size=20)) if places else []
    least = draw(st.sampled_from([-0.5, 1.0]))
    listed = [(*place, max(least, draw(values))) for place in chosen]
    train = {name: [9.0, *(draw(values) for _ in contexts[name])] for name in draw(st.sets(st.sampled_from(names[:6])))}
    return corpus(
        contexts,
        listed,
        train,
        draw(st.sets(st.sampled_from("uvwxyz"), max_size=2)),
        cluster_of=draw(st.dictionaries(st.sampled_from("uvwxyz"), st.sampled_from(["one", "two"]))),
        strongest=draw(st.sampled_from([1, len(listed), 50])),
    )


@settings(deadline=None)
@given(corpora())
def test_evidence_equals_that_of_dictionaries(made):
    expected = {name: [None if v is None else np.float32(v) for v in row] for name, row in made.slow.items()}
    assert made.known == expected


# ------------------------------------------------------------------------------------------ the baselines, by hand
ONE_UNIT = {
    "contexts": {"x:0": "ac", "y:0": "bc", "z:0": "ddacd"},
    "listed": [("x:0", 2, 2.0), ("z:0", 4, 2.0)],
}
"""c fires after a, and is silent after b; the mean over the nine tokens is 2/9."""


def test_backoff_counts_and_shrinks():
    made = corpus(**ONE_UNIT)
    predict = fit_backoff(made.labels, shrinkage=1).predict
    c = (2 + 2 / 9) / (3 + 1)
    after_a, after_b = (2 + c) / (2 + 1), (0 + c) / (1 + 1)
    after_da = (1 + after_a) / (1 + 1)
    after_dda = (1 + after_da) / (1 + 1)
    text = text_of("c", "ac", "bc", "dac", "ddac", "cddac", "ec", "aec", "a")
    expected = [
        [0, c], [0, 0, after_a], [0, 0, after_b], [0, 0, 0, after_da], [0, 0, 0, 0, after_dda],
        [0, c, 0, 0, 0, after_dda], [0, 0, c], [0, 0, 0, c], [0, 0],
    ]  # fmt: skip
    assert predict(text) == pytest.approx(np.concatenate(expected), abs=1e-6)
    shorter = fit_backoff(made.labels, shrinkage=1, longest=2).predict(text_of("ddac"))
    assert shorter == pytest.approx([0, 0, 0, 0, after_a], abs=1e-6)


def test_skip_bigrams_take_the_pair_with_the_strongest_evidence():
    made = corpus(**ONE_UNIT)
    predict = fit_skip_bigrams(made.labels, shrinkage=1).predict
    c = (2 + 2 / 9) / (3 + 1)
    up, down, far = (2 + c) / 3, (0 + c) / 2, (1 + c) / 2
    assert abs(up - c) > abs(down - c) > abs(far - c)
    text = text_of("c", "ac", "bc", "eac", "dec", "dac", "dbc", "bec", "a", "ddec")
    expected = [
        [0, c], [0, 0, up], [0, 0, down], [0, 0, 0, up], [0, 0, 0, far], [0, 0, 0, up], [0, 0, 0, down], [0, 0, 0, c],
        [0, 0], [0, 0, 0, 0, far],
    ]  # fmt: skip
    assert predict(text) == pytest.approx(np.concatenate(expected), abs=1e-6)


def test_a_pair_is_found_up_to_eight_tokens_away():
    made = corpus({"x:0": "aeeeeeeec", "y:0": "aeeeeeeeef"}, [("x:0", 9, 2.0), ("y:0", 10, 2.0)])
    skip = fit_skip_bigrams(made.labels)
    alone = skip.predict(text_of("c", "f"))[[1, 3]]
    far = skip.predict(text_of("abbbbbbbc", "abbbbbbbbf"))
    assert far[9] > alone[0]
    assert far[20] == alone[1]


@pytest.mark.parametrize("fit", [fit_backoff, fit_skip_bigrams])
def test_nothing_reaches_over_bos(fit):
    """Neither in the harvest, where a stands before c across contexts, nor in the text."""
    made = corpus({"x:0": "a", "y:0": "c", "z:0": "ec"}, [("y:0", 1, 2.0)])
    predictor = fit(made.labels)
    alone = predictor.predict(text_of("c"))[1]
    assert alone > 0
    assert predictor.predict(text_of("ac"))[2] == alone
    across = predictor.predict(text_of("e", "c"))
    assert across[3] == alone
    assert across[[0, 2]].tolist() == [0, 0]
    assert predictor.predict(text_of("ec"))[2] < alone


@pytest.mark.parametrize("fit", [fit_backoff, fit_skip_bigrams])
def test_forms_that_were_never_active_are_predicted_silent(fit):
    made = corpus({"x:0": "abc"}, [("x:0", 2, 2.0)])
    predicted = fit(made.labels).predict(text_of("abc", "h"))
    assert np.flatnonzero(predicted).tolist() == [2]
    silent = corpus({"x:0": "abc", "y:0": ""})
    assert not fit(silent.labels).predict(text_of("abc")).any()
    nothing = corpus({"x:0": "abc"}, [("x:0", 2, 2.0)], test_documents={"x"})
    assert not fit(nothing.labels).predict(text_of("abc")).any()


def test_what_changes_little_is_not_remembered():
    """c fires once in 300 after a, and always after b: a is what every c has, b has a node."""
    made = corpus({f"x:{i}": "ac" for i in range(300)} | {"y:0": "bc"}, [("x:0", 2, 2.0), ("y:0", 2, 2.0)])
    assert len(fit_backoff(made.labels).forms) == 2
    assert len(fit_backoff(made.labels, negligible=0).forms) == 3
    assert len(fit_skip_bigrams(made.labels).pairs) == 1
    assert len(fit_skip_bigrams(made.labels, negligible=0).pairs) == 2


# ------------------------------------------------------------------------------------------ the baselines, second sight
CONTEXTS = st.lists(st.text("abcdef", max_size=14), min_size=1, max_size=4)
SHRINKAGES = st.sampled_from([0.25, 1.0])


def slow_rows(made: Corpus):
    return [(forms(made.contexts[name][1]), labels) for name, labels in made.slow.items()]


@settings(deadline=None)
@given(corpora(), CONTEXTS, SHRINKAGES)
def test_backoff_equals_the_definition_run_by_run(made, contexts, shrinkage):
    exact = fit_backoff(made.labels, shrinkage=shrinkage, negligible=0)
    small = fit_backoff(made.labels, shrinkage=shrinkage, negligible=0.01)
    text, rows = text_of(*contexts), slow_rows(made)
    expected = np.concatenate([slow_backoff(rows, forms(ids(words)), 4, shrinkage) for words in contexts])
    assert exact.predict(text) == pytest.approx(expected, abs=1e-6)
    assert np.abs(small.predict(text) - expected).max() <= 4 * 0.01
    assert len(small.forms) <= len(exact.forms)


@settings(deadline=None)
@given(corpora(), CONTEXTS, SHRINKAGES, st.sampled_from([0, 0.1]))
def test_skip_bigrams_equal_the_definition_pair_by_pair(made, contexts, shrinkage, negligible):
    skip = fit_skip_bigrams(made.labels, shrinkage=shrinkage, negligible=negligible)
    rows = slow_rows(made)
    expected = [slow_skip_bigrams(rows, forms(ids(words)), 8, shrinkage, negligible) for words in contexts]
    assert skip.predict(text_of(*contexts)) == pytest.approx(np.concatenate(expected), abs=1e-6)
