"""For all tests: array shapes that signatures promise are checked, and no test asserts on time."""

from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile("n2g_assets", deadline=None, derandomize=True)
settings.load_profile("n2g_assets")

install_import_hook(
    ["n2g_assets.method.saliency", "n2g_assets.method.predict"],
    "beartype.beartype",
)
