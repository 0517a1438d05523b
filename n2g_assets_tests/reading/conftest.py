"""The finished run of the method evidence, which queries read."""

from n2g_assets_tests.assets.conftest import finished_evidence

__all__ = ["finished_evidence"]
