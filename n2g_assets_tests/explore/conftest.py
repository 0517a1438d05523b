"""The finished runs of the tests of assets, whose databases the explorer reads."""

from __future__ import annotations

from n2g_assets_tests.assets.conftest import finished, finished_evidence

__all__ = ["finished", "finished_evidence"]
