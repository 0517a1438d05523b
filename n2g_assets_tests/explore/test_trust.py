"""What the explorer can be trusted with: hostile tokens and addresses, a file that changes or is broken."""

from __future__ import annotations

import json
import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import duckdb
import polars as pl
import pytest
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from n2g_assets.core.errors import LimitError, StorageError
from n2g_assets.core.explorer import dagster_address
from n2g_assets.explore.app import HEADERS, build_app
from n2g_assets.explore.downloads import DOWNLOADS, REPORT_POLICY, TABLES
from n2g_assets.explore.page import address
from n2g_assets.method.tokens import display_text
from n2g_assets.reading.database import MOST_REMEMBERED, Database
from n2g_assets.storage.schema import keep_rows
from n2g_assets_tests.report.class_graphs import TOKENS
from n2g_assets_tests.report.published import Frames, database
from n2g_assets_tests.report.published import study as paper_study
from n2g_assets_tests.storage.helpers import rows
from n2g_assets_tests.storage.test_views_search import study

SCRIPT, QUOTES, REVERSED = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>&quot;",
    "a\u202eb\u2066c\u200bd",
)
WHITE, LONE = " " * 10_000, b"\xc3\xff\x00\x1b[2J"
NAME = "a \"<b>'&?#%"
"""Of a study."""
HOSTILE = {2: SCRIPT.encode(), 3: QUOTES.encode(), 4: REVERSED.encode(), 5: WHITE.encode(), 6: LONE, 9: b"]]>", 10: b""}
UNITS = ((0, 1), (0, 2), (3, 4), (3, 5), (3, 6))


def hostile() -> Frames:
    tokens = [HOSTILE.get(number, token) for number, token in enumerate(TOKENS)]
    texts = list(map(display_text, tokens))
    patterns = "".join(texts[number] for number in HOSTILE)
    found = study()
    keys = [{"layer": layer, "unit": unit} for layer, unit in UNITS]
    context = [0, *HOSTILE, *range(len(tokens))]
    wrong = {
        "kind": "miss",
        "text": "random",
        "position": 2,
        "token_ids": context,
        "context_id": "d:0",
        "cause": SCRIPT,
    }
    return found | {
        "vocabulary": rows(
            "vocabulary",
            *(
                {"token_id": number, "token": token, "normalised": token, "text": text}
                for number, (token, text) in enumerate(zip(tokens, texts, strict=True))
            ),
        ),
        "subject_models": rows("subject_models", {"model": SCRIPT, "bos_id": 0, "mask_id": 1, "architecture": QUOTES}),
        "rules": found["rules"].with_columns(pattern=pl.lit(patterns)),
        "contexts": rows("contexts", {"context_id": "d:0", "document_id": "d", "token_ids": context}),
        "top_contexts": found["top_contexts"].clear(),
        "top_examples": rows(
            "top_examples",
            *(key | {"split": "train", "peak": 3, "activation": 2.0, "activations": [0.5] * len(context),
                     "token_ids": context, "context_id": "d:0"} for key in keys),
        ),
        "failures": rows("failures", *keys, kind=SCRIPT, reason=QUOTES),
        "counterexamples": rows("counterexamples", *(key | wrong for key in keys)),
        "documents": rows("documents", {"document_id": "d", "source": SCRIPT, "split": "held_out"}),
    }  # fmt: skip


def paper() -> Frames:
    tokens = [b"<bos>", b"<mask>", b"except", SCRIPT.encode()]
    vocabulary = [{"token_id": number, "token": token, "normalised": token} for number, token in enumerate(tokens)]
    subject = rows("subject_models", {"model": "tiny-llama", "bos_id": 0, "mask_id": 1})
    return paper_study((7,)) | {"vocabulary": rows("vocabulary", *vocabulary), "subject_models": subject}


@pytest.fixture(scope="module")
def file() -> Path:
    with database(**{NAME: hostile(), "paper": paper()}) as connection:
        keep_rows(connection)
        [(path,)] = connection.execute("SELECT path FROM duckdb_databases() WHERE path IS NOT NULL").fetchall()
    return Path(path)


def client_of(path: Path) -> TestClient:
    return TestClient(build_app(Database(path)), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(file: Path) -> TestClient:
    return client_of(file)


class Tags(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def pages() -> list[str]:
    """An address of every page, with the hostile study."""
    unit = address("/study/{study}/{layer}/{unit}", {"study": NAME, "layer": 3, "unit": "4"})
    paper = "/study/paper/7/3"
    rule = f"{unit}/rule/1"
    return [
        "/", address("/study/{study}", {"study": NAME}), address("/study/{study}/{layer}", {"study": NAME, "layer": 3}),
        unit, rule, f"{rule}?all=true", f"{unit}/try", f"{unit}/similar", paper, "/study/paper",
        "/study/paper/7", address("/compare", {"a": f"{NAME}/3/4", "b": "paper/7/3"}), "/compare", "/about/api",
        *(address("/search", {"q": each, "how": "exact"}) for each in (SCRIPT, QUOTES, "a\u202eb", " " * 200)),
        address("/search", {"text": SCRIPT + QUOTES, "study": NAME}),
        address("/search", {"activating": "script|img", "how": "regex", "context": SCRIPT}),
    ]  # fmt: skip


@pytest.mark.parametrize("path", pages())
def test_hostile_text_is_shown_and_is_never_markup(client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200, response.text
    found = Tags(response.text)
    scripts = [given for tag, given in found.tags if tag == "script"]
    assert scripts == [{"src": "/static/explore.js", "defer": None}]
    images = {given["src"] for tag, given in found.tags if tag == "img"}
    assert images == {"/static/icon.svg"}
    for tag, given in found.tags:
        assert not any(name.startswith("on") or name == "style" for name in given), (tag, given)
        href = (given.get("href") or "").lower()
        assert not href.startswith(("javascript:", "data:", "//"))
        assert not href.startswith("http") or href.startswith(dagster_address(""))
    given = {character for character in unquote(path) if not character.isprintable()}  # stands in the box again
    assert not set("\u202e\u2066\u200b\x00\x1b") & set(response.text) - given
    assert len(response.content) < 500_000


def test_every_page_of_the_application_is_among_them(client) -> None:
    routes = [route for route in client.app.routes if isinstance(route, Route)]
    files = {each.path for each in DOWNLOADS}
    html = [route for route in routes if not route.path.startswith("/api") and route.path not in files]
    asked = [quote(path.partition("?")[0], safe="/%") for path in pages()]
    for route in html:
        assert any(route.path_regex.fullmatch(path) for path in asked), route.path
    assert any(isinstance(route, Mount) for route in client.app.routes)


def test_hostile_tokens_can_be_read_on_a_units_page(client) -> None:
    found = Tags(client.get(pages()[3]).text)
    for shown in (SCRIPT, "onerror=alert(1)", "\\xc3\\xff", display_text(HOSTILE[4]), "]]>"):
        assert shown in found.text, shown


def test_downloads_of_hostile_tokens_are_whole_files(client) -> None:
    unit = pages()[3]
    picture = ElementTree.fromstring(client.get(f"{unit}/graph.svg").content)
    assert not [each for each in picture.iter() if each.tag.endswith(("script", "foreignObject", "image"))]
    data = client.get(f"{unit}/graph.json")
    assert any(SCRIPT in node["tokens"] for node in data.json()["nodes"])
    dot = client.get(f"{unit}/graph.dot")
    assert dot.text.startswith("/*")
    assert SCRIPT in dot.text.replace("\\", "")
    asked = {"study": NAME, "layer": 3, "unit": "4", "q": "of"}
    for table in TABLES:
        given = {name: value for name, value in asked.items() if name in table.asked.model_fields}
        csv, parquet = (client.get(address(f"{table.path}.{ending}", given)) for ending in ("csv", "parquet"))
        assert len(pl.read_csv(csv.content)) == len(pl.read_parquet(parquet.content)), table.path
        if table.path.endswith(("{layer}/units", "/rules")):
            assert len(pl.read_parquet(parquet.content)) > 0, table.path
    for each in (data, dot, csv, parquet):
        said = each.headers["Content-Disposition"]
        assert said.count('"') == 2
        assert not set("<>/'\\%") & set(said)
    for path in pages():
        twin = client.get(f"/api{path}".replace("/api/?", "/api?").rstrip("/"))
        if path != "/about/api":
            assert twin.status_code == 200
            json.loads(twin.text)


STRANGE = [
    "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/%2e%2e%2f%2e%2e%2fetc/passwd",
    "/static//etc/passwd", "/static/%00", "/static/", "/nowhere", "/study/", "/study/%00", "/study/%ff%fe",
    "/study/..%2f..%2fetc/7", "/study/" + "a" * 201, "/study/paper/x", "/study/paper/" + "9" * 30,
    "/study/paper/7/" + "9" * 30, "/study/paper/7/-", "/study/paper/7/3/rule/-1", "/study/paper/7/3/rule/99",
    "/study/paper/7/3?rules=0", "/study/paper/7/3?rules=x", "/study/paper/7?page=0", "/study/paper/7?page=2",
    "/study/paper/7?sort=1;DROP", "/study/paper/7?least=nan", "/study/paper/7?least=inf", "/search?q=%00",
    "/compare?a=x", "/compare?a=%00/7/1", "/compare?a=paper/" + "9" * 20 + "/1",
    "/study/paper/7/3/try?text=" + "a" * 5001,
    "/study/paper/7/3/graph.exe", "/study/paper/7/99/graph.svg", "/search?text=" + "a" * 20_001,
]  # fmt: skip


@pytest.mark.parametrize("path", STRANGE, ids=lambda path: path[:40])
def test_a_strange_address_gets_one_sentence_with_a_status(client, path: str) -> None:
    for prefix in ("", "/api"):
        response = client.get(prefix + path)
        assert response.status_code in {400, 404}, response.text
        if prefix:
            sentence = response.json()["error"]
            assert "\n" not in sentence
            assert len(sentence) < 700
        else:
            assert len(response.content) < 5000
        assert "Traceback" not in response.text


ANSWERS = [*pages()[:4], *STRANGE[:9], "/static/explore.css", "/static/explore.js", "/static", "/study/paper/",
           "/api/openapi.json", "/api", "/study/paper/7/3/graph.svg", "/study/paper/7/3/graph.json"]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_every_answer_carries_the_policy_and_only_reading_is_allowed(client, method: str) -> None:
    for path in ANSWERS:
        response = client.request(method, path, follow_redirects=False)
        assert {name: response.headers[name] for name in HEADERS} == HEADERS, path
        assert response.status_code < 500
        if method == "HEAD":
            assert response.content == b""
            assert response.status_code == client.get(path, follow_redirects=False).status_code
        elif method != "GET":
            assert response.status_code in {405, 404, 307}
    sources = HEADERS["Content-Security-Policy"].split("; ")
    assert "default-src 'none'" in sources
    assert "unsafe" not in HEADERS["Content-Security-Policy"]
    assert client.post("/api").json() == {"error": "Pages are only read: ask with GET or HEAD, not with POST."}
    assert client.post("/").headers["Allow"] == "GET, HEAD"


def test_a_name_that_leads_here_from_elsewhere_is_refused_and_its_own_names_are_not(file) -> None:
    client = TestClient(build_app(Database(file), hosts=("localhost", "127.0.0.1", "::1", "box")))
    for host in ("localhost", "LOCALHOST:8777", "127.0.0.1:9", "[::1]:8777", "[::1]", "box:80"):
        assert client.get("/", headers={"Host": host}).status_code == 200, host
    for host in ("evil.example", "127.0.0.1.evil.example:8777", "localhost.evil", "", "[::1", "a@b", "127.0.0.2"):
        for path in ("/", "/api/studies", "/static/explore.css", "/study/paper/7/units.csv"):
            response = client.get(path, headers={"Host": host})
            assert response.status_code == 421, (host, path)
            assert {name: response.headers[name] for name in HEADERS} == HEADERS
    said = client.get("/api", headers={"Host": "evil.example"}).json()["error"]
    assert said == "Nothing is served here as 'evil.example': ask for 127.0.0.1, ::1, box, localhost."


def test_a_report_keeps_its_own_policy_and_one_that_is_not_there_is_said(file, tmp_path) -> None:
    client = client_of(copied(file, tmp_path))
    response = client.get("/study/paper/report")
    assert response.status_code == 404
    assert "has no report here: materialize its report." in response.text
    assert 'href="/study/paper/report"' not in client.get("/study/paper").text
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "paper.html").write_text("<title>report</title>")
    response = client.get("/study/paper/report")
    assert response.text == "<title>report</title>"
    assert response.headers["Content-Security-Policy"] == REPORT_POLICY
    assert "script-src" not in REPORT_POLICY
    assert 'href="/study/paper/report"' in client.get("/study/paper").text


def copied(file: Path, folder: Path) -> Path:
    return Path(shutil.copy(file, folder / "n2g.duckdb"))


def sentence_of(client: TestClient, path: str = "/api") -> str:
    response = client.get(path)
    assert response.status_code == 503
    assert {name: response.headers[name] for name in HEADERS} == HEADERS
    assert client.get(path.removeprefix("/api") or "/").status_code == 503
    return response.json()["error"]


def test_a_file_that_is_missing_damaged_or_of_another_version_is_one_sentence_until_it_is_mended(
    file, tmp_path
) -> None:
    path = tmp_path / "n2g.duckdb"
    client = client_of(path)
    assert sentence_of(client) == f"{path} is not there yet: run a study first, such as with n2g demo."
    assert client.get("/static/explore.css").status_code == 200
    path.write_bytes(b"no database" * 1000)
    assert "is damaged or no database" in sentence_of(client)
    path.write_bytes(file.read_bytes()[:50_000])
    assert "is damaged or no database" in sentence_of(client)
    path.unlink()
    path.mkdir()
    assert "is damaged or no database" in sentence_of(client)
    path.rmdir()
    with duckdb.connect(str(path)) as other:
        other.execute("CREATE TABLE studies AS SELECT 'old' AS study")
    assert "was published by another version" in sentence_of(client)
    os.replace(copied(file, tmp_path), path)
    assert client.get("/").status_code == 200
    with pytest.raises(StorageError, match="cannot be looked at"):
        Database(path / "inside").snapshot()


def test_blocks_that_are_damaged_inside_the_file_are_one_sentence(file, tmp_path) -> None:
    whole = copied(file, tmp_path).read_bytes()
    path = tmp_path / "damaged.duckdb"
    path.write_bytes(whole[:12288] + bytes(byte ^ 0x55 for byte in whole[12288:]))
    client = client_of(path)
    assert f"{path} " in sentence_of(client)


def test_an_error_that_nobody_foresaw_is_one_sentence_with_the_policy(file, monkeypatch) -> None:
    monkeypatch.setattr("n2g_assets.explore.app.plain", lambda value: 1 / 0)
    response = client_of(file).get("/api")
    assert response.status_code == 500
    assert response.json()["error"].startswith("This page could not be made (ZeroDivisionError): the terminal")
    assert {name: response.headers[name] for name in HEADERS} == HEADERS


def test_a_study_whose_model_is_not_published_leaves_the_others_readable() -> None:
    with database(whole=paper(), part=study()) as connection:
        keep_rows(connection)
        [(path,)] = connection.execute("SELECT path FROM duckdb_databases() WHERE path IS NOT NULL").fetchall()
    client = client_of(Path(path))
    assert "its model is not published" in client.get("/").text
    assert client.get("/study/whole").status_code == 200
    assert client.get("/study/part").status_code == 404
    assert "materialize its subject_model and its warehouse again" in client.get("/api/study/part").json()["error"]


def test_pages_asked_for_while_runs_publish_are_whole_and_of_one_file(file, tmp_path) -> None:
    """Each file says its number in two tables that two queries of one page read."""
    path = copied(file, tmp_path)
    files = []
    for number in range(20):
        files.append(Path(shutil.copy(file, tmp_path / f"{number}.duckdb")))
        with duckdb.connect(str(files[-1])) as connection:
            connection.execute("UPDATE subject_models SET model = $1 WHERE study = 'paper'", [f"file {number}"])
            connection.execute("UPDATE documents SET source = $1 WHERE study = 'paper'", [f"file {number}"])
    os.replace(shutil.copy(files[0], tmp_path / "next"), path)
    client, done = client_of(path), threading.Event()

    def read(_: int) -> set[str]:
        seen = set()
        while not done.is_set():
            response = client.get("/api/study/paper")
            assert response.status_code == 200, response.text
            found = response.json()
            marks = {found["model"]["model"], found["summary"]["model"], *found["summary"]["sources"]}
            assert len(marks) == 1, marks
            seen |= marks
        return seen

    with ThreadPoolExecutor(2) as readers:
        reading = [readers.submit(read, each) for each in range(2)]
        for each in files:
            os.replace(shutil.copy(each, tmp_path / "next"), path)
            assert client.get("/api/study/paper").json()["model"]["model"] == f"file {each.stem}"
        done.set()
        seen = set().union(*(each.result() for each in reading))
    assert len(seen) > 1


def test_no_question_takes_more_time_or_memory_than_there_is_or_writes_to_the_disk(file, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("n2g_assets.reading.database.MEMORY_LIMIT", "40MB")
    snapshot = Database(file).snapshot()
    with pytest.raises(LimitError, match="more than 40MB of memory: ask for less"):
        snapshot.rows("SELECT count(DISTINCT range) AS n FROM range(10000000)")
    assert list(tmp_path.iterdir()) == []
    snapshot.seconds = 0.1
    for _ in range(2):
        with pytest.raises(LimitError, match=r"more than 0\.1 seconds"):
            snapshot.rows("SELECT sum(a.range * b.range) AS n FROM range(1000000) AS a, range(1000000) AS b")
        assert snapshot.rows("SELECT 1 AS n") == [{"n": 1}]  # the next one on the same cursor is not ended


def test_what_is_remembered_is_bounded_and_goes_with_its_file(file, tmp_path) -> None:
    path = copied(file, tmp_path)
    database = Database(path)
    snapshot = database.snapshot()
    for number in range(3 * MOST_REMEMBERED):
        assert snapshot.remembered(("kept", number), lambda number=number: number) == number
        snapshot.remembered(("kept", 0), list)
    assert len(snapshot._remembered) == MOST_REMEMBERED
    assert snapshot.remembered(("kept", 0), list) == 0
    with pytest.raises(ZeroDivisionError):
        snapshot.remembered("fails", lambda: 1 / 0)
    assert snapshot.remembered("fails", lambda: 2) == 2
    os.replace(shutil.copy(file, tmp_path / "next"), path)
    assert database.snapshot() is not snapshot
    assert not snapshot._remembered
    assert snapshot.rows("SELECT count(*) AS n FROM studies") == [{"n": 2}]
