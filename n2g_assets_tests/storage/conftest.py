"""A home of its own for every test."""

from __future__ import annotations

from pathlib import Path

import pytest

from n2g_assets.core.home import Home
from n2g_assets.storage.slices import SliceStore


@pytest.fixture
def store(tmp_path: Path) -> SliceStore:
    home = Home(tmp_path / "home [1] with 'odd* name")
    home.check_writable()
    return SliceStore(home)
