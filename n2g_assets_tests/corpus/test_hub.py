from __future__ import annotations

import hashlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import polars as pl
import pytest

from n2g_assets.core.errors import SourceError
from n2g_assets.core.home import Home
from n2g_assets.core.sources import HubSource
from n2g_assets.corpus.hub import choose_split, find_listing, read_hub
from n2g_assets.corpus.sources import source_fingerprints
from n2g_assets_tests.storage.helpers import files_below

COMMIT = "c" * 40
SOURCE = HubSource(source="hub", name="owner/data")


def parquet(*texts):
    buffer = io.BytesIO()
    pl.DataFrame({"text": list(texts)}).write_parquet(buffer)
    return buffer.getvalue()


@pytest.fixture
def hub(monkeypatch):
    """A hub of our own on this machine: one data set, whose files are ``hub.files``."""
    from huggingface_hub import constants

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *words):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            server.asked.append(self.path)
            data, known, error = b"{}", True, "RepoNotFound"
            if "/revision/refs" in self.path:
                error, known = "RevisionNotFound", False
            elif self.path.startswith("/api/datasets/owner/data"):
                siblings = [{"rfilename": name} for name in server.files]
                data = json.dumps({"id": "owner/data", "sha": COMMIT, "siblings": siblings}).encode()
            elif (name := self.path.partition(f"/resolve/{COMMIT}/")[2]) in server.files:
                data = server.files[name]
            else:
                known = False
            self.send_response(200 if known else 404)
            if not known:
                self.send_header("X-Error-Code", error)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    server.files = {
        "README.md": b"",
        "data/test-00000.parquet": parquet("test"),
        "data/train-00000-of-00002.parquet": parquet("one", "two"),
        "data/train-00001-of-00002.parquet": parquet("three"),
    }
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_files_of_a_split_are_read_in_order_and_only_as_far_as_wanted(hub, tmp_path):
    documents = read_hub(SOURCE, Home(tmp_path))
    assert next(documents).name == "data/train-00000-of-00002.parquet:0"
    assert not any("train-00001" in path for path in hub.asked)
    assert [document.text for document in documents] == ["two", "three"]


def test_what_was_fetched_is_read_again_without_the_hub_and_has_the_same_fingerprint(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    first = list(read_hub(SOURCE, Home(tmp_path)))
    fingerprint = source_fingerprints([SOURCE], study_folder=tmp_path, home=Home(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert list(read_hub(SOURCE, Home(tmp_path))) == first
    assert source_fingerprints([SOURCE], study_folder=tmp_path, home=Home(tmp_path)) == fingerprint
    assert COMMIT in fingerprint[0]["content"]


def test_a_damaged_listing_is_asked_for_again_and_named_where_the_hub_is_away(hub, tmp_path, monkeypatch, caplog):
    from huggingface_hub import constants

    first = list(read_hub(SOURCE, Home(tmp_path)))
    (listing,) = (tmp_path / name for name in files_below(tmp_path) if "hub_listings" in name)
    whole = listing.read_bytes()
    for position in range(0, len(whole), 7):
        flipped = whole[position] ^ 1 << position % 8
        listing.write_bytes(whole[:position] + bytes([flipped]) + whole[position + 1 :])
        assert find_listing(SOURCE, Home(tmp_path)).commit == COMMIT
        assert listing.read_bytes() == whole
    listing.write_bytes(whole[: len(whole) // 2])
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError, match="'owner/data' cannot be had from the hub"):
        list(read_hub(SOURCE, Home(tmp_path)))
    assert "hub_listings" in caplog.text
    assert len(first) == 3


def test_a_hub_that_is_out_of_reach_is_one_clear_sentence(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        SourceError, match=r"'owner/data' cannot be had from the hub .*: check its name and the network"
    ):
        list(read_hub(SOURCE, Home(tmp_path)))


def test_offline_mode_is_one_clear_sentence(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="cannot be had from the hub"):
        list(read_hub(SOURCE, Home(tmp_path)))


def test_an_unknown_data_set_and_an_unknown_split_are_named(hub, tmp_path):
    with pytest.raises(SourceError, match="'owner/other' at revision 'v2' cannot be had from the hub"):
        list(read_hub(HubSource(source="hub", name="owner/other", revision="v2"), Home(tmp_path)))
    with pytest.raises(SourceError, match=r"for the split 'trial' .it has 'data/test-00000.parquet', .*another split"):
        list(read_hub(HubSource(source="hub", name="owner/data", split="trial"), Home(tmp_path)))


def test_a_data_set_without_parquet_files_is_named(hub, tmp_path):
    hub.files = {"README.md": b"", "data.csv": b""}
    with pytest.raises(SourceError, match=r"for the split 'train' \(it has no Parquet files\)"):
        list(read_hub(SOURCE, Home(tmp_path)))


def test_a_split_is_found_by_folder_or_file_name_and_must_be_one():
    assert choose_split(["train.parquet", "training.parquet", "a/test/0.parquet"], "train") == ["train.parquet"]
    assert choose_split(["default/train/0.parquet", "default/train/1.parquet"], "train") == [
        "default/train/0.parquet",
        "default/train/1.parquet",
    ]
    assert choose_split(["default/train/0.parquet", "other/train/0.parquet"], "train") == ["default/train/0.parquet"]
    assert choose_split(["one/train/0.parquet", "two/train/0.parquet"], "train") == []
