"""The finished run of the tests of assets, whose evaluation is made again with explanations."""

from n2g_assets_tests.assets.conftest import finished

__all__ = ["finished"]
