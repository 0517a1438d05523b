"""The rows of a finished run are what the model and a slow predictor say."""

import polars as pl

from n2g_assets.core.home import Home
from n2g_assets.model.folder import hash_model
from n2g_assets.model.sources import SubjectFiles
from n2g_assets.storage.slices import SliceKey, SliceStore
from n2g_assets_tests.recomputation import gather
from n2g_assets_tests.storage.helpers import rows_of_all
from n2g_assets_tests.tiny_models import load_tiny


def test_stored_activations_and_counts_are_found_again(finished):
    folder = finished.study.folder / "model"
    model = load_tiny(SubjectFiles(folder, "model", "local", hash_model(folder)))
    evidence = gather(SliceStore(Home(finished.home)), "tiny", model, n_units=12)
    assert evidence.examples > 100
    assert evidence.largest_difference <= 1e-4
    assert evidence.wrong_counts == []


def test_no_step_that_builds_a_graph_read_a_held_out_or_a_test_document(finished):
    """Promise 4, on the tables of a run: every prompt is a piece of a train context of its own unit."""
    store = SliceStore(Home(finished.home))
    examples = rows_of_all(store, "top_examples", "tiny")
    documents = store.read(SliceKey("documents", "tiny"))
    held_out = set(documents.filter(pl.col("split") != "harvest")["document_id"])
    assert held_out
    assert not held_out & set(examples["document_id"])
    keys = ["layer", "unit", "sign"]
    for unit, mine in examples.group_by(keys):
        test = set(mine.filter(pl.col("split") == "test")["document_id"])
        train = mine.filter(pl.col("split") == "train")
        assert not test & set(train["document_id"])
        for table in ("pruned_examples", "augmented_examples", "saliencies"):
            ranks = rows_of_all(store, table, "tiny").filter(**dict(zip(keys, unit, strict=True)))["rank"]
            assert set(ranks) <= set(train["rank"])
    pruned = rows_of_all(store, "pruned_examples", "tiny").join(examples, on=[*keys, "rank"], suffix="_of_example")
    for row in pruned.iter_rows(named=True):
        start, kept = row["start"], row["token_ids"]
        assert row["token_ids_of_example"][start : start + len(kept) - 1] == kept[1:]
