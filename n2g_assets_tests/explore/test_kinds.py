"""The page of a study beside those that explain other units of its model."""

from __future__ import annotations

from starlette.testclient import TestClient

from n2g_assets.core.home import Home
from n2g_assets.explore.app import build_app
from n2g_assets.reading.database import Database
from n2g_assets_tests.explore.conftest import publish_beside


def test_studies_that_can_be_compared_stand_on_each_others_page(finished_evidence, tmp_path):
    home = Home(finished_evidence.copy_home(tmp_path))
    publish_beside(home, home.root, "twin")
    client = TestClient(build_app(Database(home.database)))
    page = client.get("/study/tiny").text
    assert "Kinds of units" in page
    assert '<a href="/study/twin">twin</a>' in page
    rows = client.get("/api/study/tiny").json()["kinds"]
    assert [(row["layer"], row["study"], row.get("pearson_r_more")) for row in rows[:4]] == [
        (0, "tiny", None), (0, "twin", 0.0), (1, "tiny", None), (1, "twin", 0.0),
    ]  # fmt: skip
    table = client.get("/study/tiny/kinds_beside.csv").text.splitlines()
    assert table[0].startswith("study,layer,text,comparable,kind")
    assert {line.split(",")[0] for line in table[1:]} == {"twin"}


def test_a_study_without_its_like_has_no_such_section(finished_evidence):
    client = TestClient(build_app(Database(Home(finished_evidence.home).database)))
    assert "Kinds of units" not in client.get("/study/tiny").text
