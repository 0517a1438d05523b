"""For all tests: array shapes that signatures promise are checked, and no test asserts on time."""

import gc
import os
from typing import Any

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run in a process a core; read when torch and numba are imported

gc.disable()  # until all tests are imported: what is imported stays, and looking through it takes a quarter of the time

settings.register_profile("n2g_assets", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("n2g_assets")

install_import_hook(
    ["n2g_assets.method.prune", "n2g_assets.method.predict"],
    "beartype.beartype",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Groups tests that share what is slow to make; a group runs in one process of ``pytest -n``.

    A file is a group, and so are the tests that look at the same finished run of a study. The slowest groups come
    first, so that no process has one left when the others are done.
    """
    slow = ("assets/", "test_processes", "test_browser", "test_page.py", "cli/", "explore/", "storage/")
    items.sort(key=lambda item: not any(name in item.nodeid for name in slow))
    for item in items:
        finished = [name for name in getattr(item, "fixturenames", ()) if name.startswith("finished")]
        group = finished[0] if finished else f"{item.path.parent.name}/{item.path.name}"
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish() -> None:
    """From here on garbage is collected, among what is made from here on, and less often than by default."""
    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()


def pytest_unconfigure() -> None:
    """What the process ends with is collected, or libraries would call it leaked."""
    gc.unfreeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    """Ends a run in which pytest-xdist has not grouped the tests: processes would share what a test changes."""
    if node.config.getoption("dist") == "loadgroup" and not all("@" in name for name in ids):
        pytest.exit("pytest-xdist does not group the tests: install the pytest of constraints.txt.", returncode=2)
