"""What a function yields, kept in the cache: it is called once, hashed, and read from there.

So a function that gives other documents each time, or that streams them, gives those that were hashed. Where the source
has ``max_tokens``, the function is asked for no more than 20 characters a token, so it may be endless.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from n2g_assets.core.home import Home
from n2g_assets.core.sources import PythonSource
from n2g_assets.corpus.functions import call
from n2g_assets.corpus.rows import RawDocument
from n2g_assets.storage.cache import Cache, Entry
from n2g_assets.storage.hashing import hash_json

_CHARACTERS_A_TOKEN = 20
_KIND, _DOCUMENTS, _ABOUT = "python_sources", "documents.parquet", "about.json"
_CHARACTERS_A_BATCH = 1_000_000
_SCHEMA = pa.schema(
    {"name": pa.string(), "kind": pa.string(), "text": pa.large_string(), "token_ids": pa.large_list(pa.int64())}
)


def keep_yielded(source: PythonSource, study_folder: Path, home: Home) -> tuple[str, bool]:
    """Calls the function, keeps what it yields and gives its sha256 (hex), and whether there is any text.

    Raises:
        SourceError: The module or function is not there or fails, or gives no documents.
        CorpusError: A document is neither text nor token ids.
    """
    about = json.loads(_keep(source, study_folder, home).path(_ABOUT).read_text())
    return about["sha256"], about["holds_text"]


def read_yielded(source: PythonSource, study_folder: Path, home: Home) -> Iterator[RawDocument]:
    """The documents that ``keep_yielded`` kept last, in the function's order; it is called where nothing is kept.

    Raises:
        SourceError: As ``keep_yielded``.
        CorpusError: As ``keep_yielded``.
    """
    entry = Cache(home).find(_KIND, _key(source, study_folder)) or _keep(source, study_folder, home)
    with pq.ParquetFile(entry.path(_DOCUMENTS)) as parquet:
        for group in range(parquet.num_row_groups):
            for row in parquet.read_row_group(group).to_pylist():
                ids = row["token_ids"]
                token_ids = None if ids is None else np.array(ids, np.int64)
                yield RawDocument(row["name"], row["text"], token_ids=token_ids, kind=row["kind"])


def _key(source: PythonSource, study_folder: Path) -> str:
    return hash_json([source.function, source.arguments, str(study_folder.absolute()), source.max_tokens])


def _keep(source: PythonSource, study_folder: Path, home: Home) -> Entry:
    def fill(folder: Path) -> None:
        digest, holds_text = hashlib.sha256(), False
        with (
            pq.ParquetWriter(folder / _DOCUMENTS, _SCHEMA, compression="zstd") as writer,
            closing(call(source, study_folder)) as documents,
        ):
            for batch in _batches(documents, source.max_tokens):
                for each in batch:
                    ids = None if each.token_ids is None else hashlib.sha256(each.token_ids.tobytes()).hexdigest()
                    digest.update(json.dumps([each.name, each.kind, each.text, ids]).encode())
                    holds_text |= bool(each.text.strip() if each.token_ids is None else each.size)
                rows = {name: [getattr(each, name) for each in batch] for name in _SCHEMA.names}
                writer.write_table(pa.table(rows, _SCHEMA))
        (folder / _ABOUT).write_text(json.dumps({"sha256": digest.hexdigest(), "holds_text": holds_text}))

    return Cache(home).write(_KIND, _key(source, study_folder), fill)


def _batches(documents: Iterator[RawDocument], max_tokens: int | None) -> Iterator[list[RawDocument]]:
    """The documents a batch at a time, as far as ``max_tokens`` can need them."""
    batch: list[RawDocument] = []
    size = total = 0
    for document in documents:
        batch.append(document)
        size += document.size
        total += document.size
        enough = max_tokens is not None and total >= _CHARACTERS_A_TOKEN * max_tokens
        if enough or size >= _CHARACTERS_A_BATCH or len(batch) >= 10_000:
            yield batch
            batch, size = [], 0
        if enough:
            return
    if batch:
        yield batch
