"""A tiny model, its contexts and a first harvest, made once."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from n2g_assets.evidence.harvest import Harvest
from n2g_assets.model.model import SubjectModel
from n2g_assets_tests.evidence.helpers import make_contexts, run
from n2g_assets_tests.tiny_models import load_tiny, tiny_llama


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("model") / "llama")


@pytest.fixture(scope="session")
def model(files) -> SubjectModel:
    return load_tiny(files)


@pytest.fixture(scope="session")
def contexts(model) -> pl.DataFrame:
    return make_contexts(model, range(14))


@pytest.fixture(scope="session")
def first(model, contexts, tmp_path_factory) -> tuple[Harvest, Path]:
    folder = tmp_path_factory.mktemp("cache")
    return run(model, contexts, folder), folder
