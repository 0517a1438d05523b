"""The lock of the forward pass: runs on one machine compute one after the other.

Side by side on the same cores each slows the other down; see ``benchmarks/workers.py``. Results do not depend on it.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from filelock import FileLock


def forward_pass_lock(path: Path | None) -> AbstractContextManager[object]:
    """A lock between processes and threads, reentrant within a thread; it ends with its process. None locks nothing."""
    if path is None:
        return nullcontext()
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, is_singleton=True, poll_interval=0.002)  # one object a file: else not reentrant
