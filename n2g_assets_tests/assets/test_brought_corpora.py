"""Token ids and code as a study's corpus, through the stages that read them."""

from __future__ import annotations

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from n2g_assets.assets import corpus_tokens, subject_model
from n2g_assets.model.tokens import SubjectTokenizer
from n2g_assets_tests.assets.studies import no_progress, rows_of, session_of, tiny_study
from n2g_assets_tests.tiny_models import VOCABULARY

CODE = """
from pathlib import Path

def read(folder):
    for file in sorted(Path(folder).iterdir()):
        yield {"text": file.read_text(), "name": file.stem, "kind": "story"}
"""


def test_a_study_reads_token_ids_and_what_a_function_yields_and_reuses_what_is_equal(tmp_path):
    study = tiny_study(tmp_path)
    tokenizer = SubjectTokenizer.load(tmp_path / "model", VOCABULARY)
    texts = [file.read_text() for file in sorted((tmp_path / "corpus").iterdir())]
    stream = [token for ids in tokenizer.encode(texts[:18]) for token in [tokenizer.bos.token_id, *ids.tolist()]]
    rows = [stream[start : start + 128] for start in range(0, len(stream) - 128, 128)]
    pq.write_table(pa.table({"tokens": rows}), tmp_path / "ids.parquet")
    (tmp_path / "stories_of_mine.py").write_text(CODE)
    corpus = [
        {"source": "files", "path": "ids.parquet", "text_field": "tokens", "kind": "chunk"},
        {"source": "python", "function": "stories_of_mine:read", "arguments": {"folder": str(tmp_path / "corpus")}},
    ]
    study = tiny_study(tmp_path, corpus=corpus)

    def materialize():
        session = session_of(study, tmp_path / "home")
        subject_model.materialize(session)
        return corpus_tokens.materialize(session, no_progress)

    assert [materialize(), materialize()] == [False, True]
    documents = rows_of(tmp_path / "home", "documents")
    assert set(documents["kind"]) == {"chunk", "story"}
    assert documents.filter(kind="story").height == len(texts)
    clusters = documents.group_by("cluster_id").agg(pl.col("kind").n_unique(), pl.col("split").n_unique())
    assert clusters["split"].max() == 1
    assert clusters.filter(kind=2).height > 5  # chunks lie with the stories that they were cut from
    (tmp_path / "corpus" / "story-000.txt").write_text("Everyone came to the party except the old king.")
    assert not materialize()
