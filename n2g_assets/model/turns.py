"""Turns at the machine: runs side by side give their forward passes one after the other.

Two models that compute at once on two cores do not run at half their speed but at a tenth of it: at every matrix the
threads of one wait for cores that those of the other hold. So a run asks for a turn before each forward pass, a matter
of milliseconds to seconds, and what reads the activations in it, such as the harvest's selection, is part of it. Its
other work (choosing, rows, scores, files) goes on beside the passes of others. On cuda a turn ends when the pass is
launched: the device then works through the passes of all runs in its own order.

A turn is an OS file lock, which ends with its process, whatever ends it. Whoever gives a lock back would mostly be the
first to take it again, before those who wait for it have woken up; hence there are two:

1. take ``next``: whoever has it is the next one in turn;
2. take ``turn``, waiting in the kernel for whoever has it;
3. give back ``next``, so that another one can stand there; pass; give back ``turn``.

Who comes back for a second turn finds ``next`` taken by whoever waits, so two runs alternate.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

PATIENCE = 20.0
"""Seconds that a run waits for its turn before it says so; it goes on waiting."""

_POLL_SECONDS = 0.002
_NAME_BYTES = 120


class Turns:
    """Turns at one machine, shared by all processes and threads that name the same file.

    A turn within a turn of the same thread costs nothing and ends with the outer one. Where the file system has no
    locks, a warning says so and turns are shared by the threads of this process alone: results never depend on them.
    """

    def __init__(self, path: Path | None, patience: float = PATIENCE) -> None:
        """Nothing is opened before the first turn.

        Args:
            path: The lock file, such as ``forward_pass.lock`` in the folder ``locks`` of N2G_HOME; a second one beside
                it ends in ``.next``. None: there is nobody to share with, and a turn is free at once.
            patience: Seconds after which a waiting process names, once, whom it waits for.
        """
        self.path = path
        self._queue = None if path is None else _queue_at(Path(os.path.realpath(path)))
        self._patience = patience

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Waits for a turn and holds it for the block."""
        if self._queue is None:
            yield
            return
        self._queue.enter(self._patience)
        try:
            yield
        finally:
            self._queue.leave()


class _Lock(Protocol):
    """A lock between processes."""

    def take(self, *, wait: bool) -> bool:
        """Whether it is held now."""

    def give(self) -> None:
        """Gives it back."""

    def sign(self, name: bytes) -> None:
        """Notes who holds it."""

    def holder(self) -> str:
        """Who noted last that they hold it."""


class _KernelLock:
    """``flock``: who waits sleeps in the kernel."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

    def take(self, *, wait: bool) -> bool:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def give(self) -> None:
        fcntl.flock(self.file, fcntl.LOCK_UN)

    def sign(self, name: bytes) -> None:
        with suppress(OSError):  # a full disk
            os.pwrite(self.file, name, 0)

    def holder(self) -> str:
        return os.pread(self.file, _NAME_BYTES, 0).decode(errors="replace").strip() or "another process"


class _PolledLock:
    """Where there is no ``flock``: who waits asks again and again."""

    def __init__(self, path: Path) -> None:
        from filelock import FileLock

        self.lock = FileLock(path, thread_local=False)

    def take(self, *, wait: bool) -> bool:
        from filelock import Timeout

        try:
            self.lock.acquire(timeout=-1 if wait else 0, poll_interval=_POLL_SECONDS)
        except Timeout:
            return False
        return True

    def give(self) -> None:
        self.lock.release()

    def sign(self, name: bytes) -> None:
        """A locked file cannot be written everywhere."""

    def holder(self) -> str:
        return "another process"


class _Queue:
    """The state of one lock file in this process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warned = False
        self.begin()

    def begin(self) -> None:
        """Nothing is held, nothing is open; also the state of a forked child."""
        self.threads = threading.RLock()
        self.depth = 0
        self.locks: tuple[_Lock, _Lock] | None = None
        self.shared = True
        self.name = f"process {os.getpid()} on {socket.gethostname()}".encode()[:_NAME_BYTES].ljust(_NAME_BYTES)

    def enter(self, patience: float) -> None:
        self.threads.acquire()
        try:
            if self.depth == 0 and self.shared:
                self._take(patience)
            self.depth += 1
        except BaseException:
            self.threads.release()
            raise

    def leave(self) -> None:
        self.depth -= 1
        try:
            if self.depth == 0 and self.shared and self.locks is not None:
                self.locks[1].give()
        finally:
            self.threads.release()

    def _take(self, patience: float) -> None:
        try:
            following, turn = self.locks = self.locks or self._open()
            self._wait(following, patience)
            try:
                if not turn.take(wait=False):
                    following.sign(self.name)
                    self._wait(turn, patience)
            finally:
                following.give()
        except OSError as error:
            self.shared = False
            logger.warning(
                "Runs side by side do not take turns at the machine, and may slow each other down: %s cannot be locked "
                "(%s); set N2G_HOME to a folder on a disk of this machine.",
                self.path,
                error.strerror or error,
            )
            return
        turn.sign(self.name)

    def _open(self) -> tuple[_Lock, _Lock]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = _PolledLock if fcntl is None else _KernelLock
        return lock(self.path.with_suffix(".next")), lock(self.path)

    def _wait(self, lock: _Lock, patience: float) -> None:
        if lock.take(wait=False):
            return
        timer = threading.Timer(patience, self._warn, (lock, patience))
        timer.daemon = True
        if not self.warned:
            timer.start()
        try:
            lock.take(wait=True)
        finally:
            timer.cancel()

    def _warn(self, lock: _Lock, patience: float) -> None:
        self.warned = True
        logger.warning(
            "Waiting for a turn at the machine for more than %g s, behind %s: nothing is wrong unless that one hangs.",
            patience,
            lock.holder(),
        )


_queues: dict[Path, _Queue] = {}
_queues_guard = threading.Lock()


def _queue_at(path: Path) -> _Queue:
    """The one queue of a file in this process: two of them would wait for each other."""
    with _queues_guard:
        if path not in _queues:
            _queues[path] = _Queue(path)
        return _queues[path]


def _after_fork() -> None:
    """A forked child holds no turn; were its parent's files left open in it, they would stay locked when that dies."""
    global _queues_guard  # noqa: PLW0603
    _queues_guard = threading.Lock()
    for queue in _queues.values():
        for lock in queue.locks or ():
            if isinstance(lock, _KernelLock):
                os.close(lock.file)
        queue.begin()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
