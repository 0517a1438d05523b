"""The evidence between real processes: two read the same at the same time; one is killed in the midst of its pass."""

from __future__ import annotations

import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from n2g_assets.core.home import Home
from n2g_assets.storage.cache import sweep
from n2g_assets_tests.evidence.helpers import NEURONS, read
from n2g_assets_tests.evidence.test_store import assert_right, entries, n_tokens
from n2g_assets_tests.evidence.waves import Waves, contexts
from n2g_assets_tests.storage.helpers import expect, start, tell

PROCESS = """
import sys
from pathlib import Path
import numpy as np
from n2g_assets_tests.evidence.helpers import NEURONS, CountingModel, read
from n2g_assets_tests.evidence.waves import Waves, contexts
class Stopping(CountingModel):
    def run(self, tokens, taps):
        super().run(tokens, taps)
        if len(self.layers) == 5:
            print("in the pass", flush=True)
            sys.stdin.readline()
folder = Path(sys.argv[1])
for line in sys.stdin:
    found = read(Stopping(Waves()), contexts(), Path(line.strip()))
    np.savez(folder / "rows.npz", **{str(layer): found.rows(layer, asked) for layer, asked in NEURONS.items()})
    print("done", flush=True)
"""
"""Reads the evidence of the same model and contexts in each home that it is told; waits in the midst of the pass."""

Start = Callable[[Path], subprocess.Popen[str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the other process puts its rows."""
    return tmp_path_factory.mktemp("process")


@pytest.fixture(scope="module")
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """The processes of this module; the last one serves the next test too if it lives."""
    found: list[subprocess.Popen[str]] = []
    yield found
    for process in found:
        process.kill()
        process.communicate()


@pytest.fixture
def in_the_pass(folder, started, tmp_path) -> subprocess.Popen[str]:
    """Another process that waits in the midst of its pass into ``tmp_path / "home"``."""
    if not started or started[-1].poll() is not None:
        started.append(start(PROCESS, folder))
    print(tmp_path / "home", file=started[-1].stdin, flush=True)
    expect(started[-1], "in the pass")
    return started[-1]


def test_two_processes_that_read_the_same_at_the_same_time_are_both_right(in_the_pass, folder, tmp_path):
    here = read(Waves(), contexts(), tmp_path / "home")
    assert 0 < here.tokens_reused < n_tokens(contexts()), "the other one has not read all yet"
    assert_right(here, Waves(), contexts(), NEURONS)
    files = {path: path.stat().st_ino for path in tmp_path.rglob("activations.npy")}
    rows = {layer: here.rows(layer, asked) for layer, asked in NEURONS.items()}
    tell(in_the_pass)
    while not select.select([in_the_pass.stdout], [], [], 0)[0]:
        assert all(np.array_equal(here.rows(layer, NEURONS[layer]), rows[layer]) for layer in rows)
    expect(in_the_pass, "done")
    assert all(path.stat().st_ino == file for path, file in files.items()), "what is read is not replaced"
    with np.load(folder / "rows.npz") as there:
        assert all(np.array_equal(there[str(layer)], rows[layer]) for layer in rows)
    again = read(Waves(), contexts(), tmp_path / "home")
    assert again.tokens_run == 0
    assert all(np.array_equal(again.rows(layer, NEURONS[layer]), rows[layer]) for layer in rows)


def test_after_kill_9_in_a_pass_the_next_run_goes_on_at_its_shard_and_gives_the_same_rows(in_the_pass, tmp_path):
    home = tmp_path / "home"
    in_the_pass.send_signal(signal.SIGKILL)
    assert in_the_pass.wait() == -signal.SIGKILL
    assert len(sweep(Home(home))) == 1, "the shard that was being written"
    finished = {entry.about["shard"] for entry in entries(home)}
    files = {path: path.stat().st_mtime_ns for path in home.rglob("activations.npy")}
    assert len(files) == len(NEURONS) * len(finished) > 0
    resumed = read(Waves(), contexts(), home)
    assert resumed.shards_reused == len(finished)
    assert 0 < resumed.tokens_run == n_tokens(contexts()) - resumed.tokens_reused
    assert all(path.stat().st_mtime_ns == then for path, then in files.items()), "nothing is made again"
    undisturbed = read(Waves(), contexts(), tmp_path / "undisturbed")
    for layer, asked in NEURONS.items():
        assert np.array_equal(resumed.rows(layer, asked), undisturbed.rows(layer, asked))
