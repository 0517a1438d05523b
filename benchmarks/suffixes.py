"""Tokens a second of suffix numbers over those of an obvious way in NumPy, with equal numbers; or seconds and memory.

The obvious way goes from each length to the next with ``np.unique`` over pairs of a run's number and the token before
it, on the whole corpus at once, in one thread. It neither writes nor hashes; ours does both, and finds the parents.
Tokens are made up: their frequency is one over their rank, 49,152 of them, in contexts of 128.

With ``--tokens`` nothing is compared: it prints the seconds and the peak of memory over that with the corpus alone.
Pages of the mapped files, which the system may take back at any time, are counted apart (on Linux only).

    python benchmarks/suffixes.py --tokens 26000000 --threads 2
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int32
from rows import row

from n2g_assets.core.home import Home
from n2g_assets.evidence.corpus import TokenCorpus
from n2g_assets.evidence.suffixes import LONGEST, Suffixes, suffix_numbers
from n2g_assets.storage.cache import Cache

GOAL = 1.5
TOKENS, VOCABULARY, CONTEXT = 2_000_000, 49_152, 128


def made_up(tokens: int) -> TokenCorpus:
    """A corpus of made-up tokens; token 0 is BOS."""
    generator = np.random.default_rng(0)
    shares = np.cumsum(1 / np.arange(1, VOCABULARY))
    token_ids = np.empty(tokens, np.int32)
    for part in np.array_split(token_ids, 1 + tokens // 2**20):
        part[:] = 1 + np.searchsorted(shares, shares[-1] * generator.random(len(part)))
    starts = np.append(np.arange(0, tokens, CONTEXT), tokens)
    token_ids[starts[:-1]] = 0
    return TokenCorpus(pl.Series(dtype=pl.String), [], np.zeros(len(starts) - 1, np.int64), token_ids, starts)


def obvious(corpus: TokenCorpus) -> Int32[np.ndarray, "lengths tokens"]:
    """The numbers, length by length."""
    found = np.full((LONGEST, len(corpus.token_ids)), -1, np.int32)
    position = np.arange(len(corpus.token_ids)) - np.repeat(corpus.starts[:-1], corpus.lengths)
    shorter = np.zeros(len(corpus.token_ids), np.int64)
    for length in range(1, LONGEST + 1):
        ends = np.flatnonzero(position >= length - 1)
        pairs = shorter[ends] * VOCABULARY + corpus.token_ids[ends - length + 1]
        shorter[ends] = found[length - 1, ends] = np.unique(pairs, return_inverse=True)[1]
    return found


def timed(corpus: TokenCorpus, threads: int | None = None) -> tuple[Suffixes, float]:
    """The suffixes, made anew in a temporary folder, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        found = suffix_numbers(corpus, Cache(Home(Path(folder))), threads=threads)
        return found, time.perf_counter() - started


def rows(home: Home) -> list[dict[str, Any]]:
    """The row of ``make bench``."""
    corpus = made_up(TOKENS)
    timed(made_up(CONTEXT))
    found, seconds = timed(corpus)
    started = time.perf_counter()
    expected = obvious(corpus)
    baseline = time.perf_counter() - started
    if not np.array_equal(found.numbers, expected):
        raise SystemExit("The numbers differ from those of the obvious way.")
    return [row("suffix numbers (tokens/s)", TOKENS / seconds, TOKENS / baseline, GOAL)]


def own_memory() -> int:
    """Bytes of this process that are no pages of files; 0 where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, help="measure ours alone, on so many tokens")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    if arguments.tokens is None:
        for one in rows(Home.from_environment()):
            print(f"{one['name']}: {one['ours']:,.0f} over {one['baseline']:,.0f}, ratio {one['ratio']:.2f}")
        return
    corpus = made_up(arguments.tokens)
    before, peak = own_memory(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen, done = [before], threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            seen.append(own_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    found, seconds = timed(corpus, arguments.threads)
    done.set()
    watcher.join()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak
    print(
        f"{arguments.tokens:,} tokens: {seconds:.1f} s, {', '.join(f'{count:,}' for count in found.counts)} runs; "
        f"peak memory over the corpus's {(max(seen) - before) / 2**20:,.0f} MiB, with mapped pages "
        f"{grown / 2**10:,.0f} MiB"
    )


if __name__ == "__main__":
    main()
