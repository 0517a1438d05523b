"""Progress with the time left: a tqdm bar on a terminal, log events with counts in the Dagster UI.

``N2G_PROGRESS=lines`` writes the events to standard error as well where that is no terminal (the demo sets it).
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import closing

from tqdm import tqdm

_SECONDS_BETWEEN_EVENTS = 10.0


def progress(what: str, unit: str, log: Callable[[str], None]) -> closing["_Shown"]:
    """A callback that shows ``done`` of ``total``; nothing is shown until it is first called.

    The event log gets a line every ten seconds at the most; work that takes less than that says nothing there.
    """
    return closing(_Shown(what, unit, log))


class _Shown:
    def __init__(self, what: str, unit: str, log: Callable[[str], None]) -> None:
        self.what, self.unit, self.log = what, unit, log
        self.bar: tqdm | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self.bar is None:
            self.bar = tqdm(total=total, initial=done, desc=self.what, unit=f" {self.unit}", disable=None)
            self.first, self.began, self.last = done, now, now
        self.bar.total, self.bar.n = total, done
        self.bar.refresh()
        if now - self.last < _SECONDS_BETWEEN_EVENTS:
            return
        self.last = now
        rate = (done - self.first) / (now - self.began)
        left = f", {clock((total - done) / rate)} left" if rate > 0 and done < total else ""
        line = f"{self.what}: {done:,} of {total:,} {self.unit}{left}"
        self.log(line)
        if os.environ.get("N2G_PROGRESS") == "lines" and not sys.stderr.isatty():
            sys.stderr.write(line + "\n")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def clock(seconds: float) -> str:
    """For reading, such as 40 s, 3 min 05 s, 2 h 10 min and 3.5 days."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 48 * 60:
        return f"{minutes / 1440:.1f} days"
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
