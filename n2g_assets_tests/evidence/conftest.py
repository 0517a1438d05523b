"""A tiny model and its contexts, made once."""

from __future__ import annotations

import polars as pl
import pytest

from n2g_assets.model.model import SubjectModel
from n2g_assets_tests.evidence.helpers import make_contexts
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
