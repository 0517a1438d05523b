"""Progress with the time left: a tqdm bar on a terminal, log events with counts in the Dagster UI.

``N2G_PROGRESS=lines`` writes the events to standard error as well where that is no terminal (the demo sets it).
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from n2g_assets.core.progress import Progress

_SECONDS_BETWEEN_EVENTS = 10.0


@contextmanager
def progress(what: str, unit: str, log: Callable[[str], None]) -> Iterator[Progress]:
    """A callback that shows ``done`` of ``total``; nothing is shown until it is first called.

    The event log gets a line every ten seconds at the most; work that takes less than that says nothing there.
    """
    bar: tqdm | None = None
    first, began, last = 0, 0.0, 0.0

    def show(done: int, total: int) -> None:
        nonlocal bar, first, began, last
        now = time.monotonic()
        if bar is None:
            bar = tqdm(total=total, initial=done, desc=what, unit=f" {unit}", disable=None)
            first, began, last = done, now, now
        bar.total, bar.n = total, done
        bar.refresh()
        if now - last < _SECONDS_BETWEEN_EVENTS:
            return
        last = now
        rate = (done - first) / (now - began)
        left = f", {_clock((total - done) / rate)} left" if rate > 0 and done < total else ""
        line = f"{what}: {done:,} of {total:,} {unit}{left}"
        log(line)
        if os.environ.get("N2G_PROGRESS") == "lines" and not sys.stderr.isatty():
            sys.stderr.write(line + "\n")

    try:
        yield show
    finally:
        if bar is not None:
            bar.close()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
