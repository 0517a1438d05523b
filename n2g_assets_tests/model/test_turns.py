"""Turns between real processes, on a real file."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from n2g_assets.model import turns
from n2g_assets.model.turns import Turns
from n2g_assets_tests.tiny_models import load_tiny, tiny_llama

PROCESS = Path(__file__).with_name("taking_turns.py")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "locks" / "forward_pass.lock"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_tiny(tiny_llama(tmp_path_factory.mktemp("models") / "tiny", n_layers=1))


@contextmanager
def processes(path, *arguments):
    """One process for each tuple of arguments, all ready to begin; none outlives the block."""
    started = [
        subprocess.Popen(
            [sys.executable, PROCESS, path, *map(str, more)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for more in arguments
    ]
    try:
        for process in started:
            assert process.stdout.readline() == "ready\n"
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


@contextmanager
def held_elsewhere(path):
    with processes(path, [0]) as (holder,):
        begin(holder)
        assert holder.stdout.readline() == "mine\n"
        yield holder


def begin(process):
    process.stdin.write("begin\n")
    process.stdin.flush()


def until_one_is_next(path):
    """Until another process has queued for the turn that somebody holds."""
    lock = turns._KernelLock(path.with_suffix(".next"))
    for _ in range(1_000_000):
        if not lock.take(wait=False):
            return os.close(lock.file)
        lock.give()
    raise AssertionError("nobody queues")


@contextmanager
def in_a_thread(work):
    """Runs beside the block; is waited for at its end."""
    done = threading.Event()
    thread = threading.Thread(target=lambda: (work(), done.set()), daemon=True)
    thread.start()
    yield done
    thread.join(60)
    assert not thread.is_alive()


def take(shared):
    with shared.mine():
        pass


@pytest.mark.parametrize("ways", [([], []), ([], [], []), (["--polled"], ["--polled"])], ids=["two", "three", "polled"])
def test_turns_of_processes_never_overlap_and_each_gets_its_own(ways, path):
    number = 100
    with processes(path, *([number, *way] for way in ways)) as all_of_them:
        for process in all_of_them:
            begin(process)
        stamps = [
            (*map(int, line.split()), who)
            for who, process in enumerate(all_of_them)
            for line in process.communicate(timeout=60)[0].splitlines()
        ]
    stamps.sort()
    assert len(stamps) == number * len(ways)
    assert all(ended <= following for (_, ended, _), (following, _, _) in itertools.pairwise(stamps))
    # while all still want turns, nobody takes a great part of them in a row
    order = [who for _, _, who in stamps]
    everyone = range(len(ways))
    together = order[max(map(order.index, everyone)) : min(len(order) - order[::-1].index(who) for who in everyone)]
    assert len(together) > number, "one was done before another one began"
    assert all(together.count(who) > len(together) // (2 * len(ways)) for who in everyone)


def test_a_killed_holder_frees_its_turn(path):
    with held_elsewhere(path) as holder, in_a_thread(lambda: take(Turns(path))) as done:
        assert not done.wait(0.2), "the turn was taken twice"
        holder.kill()
        assert done.wait(60)


def test_a_killed_waiter_does_not_stand_in_the_way(path):
    with held_elsewhere(path) as holder, processes(path, [1]) as (waiter,):
        begin(waiter)
        until_one_is_next(path)
        waiter.kill()
        holder.kill()
        with in_a_thread(lambda: take(Turns(path))) as done:
            assert done.wait(60)


def test_who_comes_back_for_a_turn_stands_behind_who_waits(path):
    """Even behind one who is slow to wake up: here, stopped."""
    shared = Turns(path)
    with processes(path, [1]) as (waiter,):
        with shared.mine():
            begin(waiter)
            until_one_is_next(path)
            os.kill(waiter.pid, signal.SIGSTOP)
        with in_a_thread(lambda: take(shared)) as done:
            assert not done.wait(0.2), "the turn went to the one who had it last"
            os.kill(waiter.pid, signal.SIGCONT)
            assert done.wait(60)


def test_who_waits_long_says_once_for_whom(path, caplog, monkeypatch):
    said = threading.Event()
    monkeypatch.setattr(turns.logger, "handle", lambda record: (caplog.handler.handle(record), said.set()))
    shared = Turns(path, patience=0.01)
    with held_elsewhere(path) as holder, in_a_thread(lambda: take(shared)):
        assert said.wait(60)
        holder.kill()
    assert f"process {holder.pid} on " in caplog.text
    with held_elsewhere(path) as holder, in_a_thread(lambda: take(shared)) as done:
        assert not done.wait(0.1)
        holder.kill()
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_turn_within_a_turn_ends_with_the_outer_one(path):
    shared, again = Turns(path), Turns(path.parent / ".." / "locks" / path.name)
    with processes(path, [1]) as (other,):
        with shared.mine():
            with again.mine(), shared.mine():
                begin(other)
            with pytest.raises(subprocess.TimeoutExpired):
                other.wait(0.2)
        assert other.communicate(timeout=60)[0]


def test_threads_take_turns(path):
    counted, inside = 0, 0

    def count():
        nonlocal counted, inside
        for _ in range(200):
            with Turns(path).mine():
                inside += 1
                assert inside == 1
                counted += 1
                inside -= 1

    with in_a_thread(count), in_a_thread(count):
        count()
    assert counted == 600


def test_an_error_in_a_turn_gives_it_back(path):
    shared = Turns(path)
    with pytest.raises(ZeroDivisionError), shared.mine():
        raise ZeroDivisionError
    with processes(path, [1]) as (other,):
        begin(other)
        assert other.communicate(timeout=60)[0]


@pytest.mark.parametrize("ask", ["run", "read", "logits"])
def test_a_model_waits_for_its_turn_before_a_pass(ask, model, path):
    import torch

    tokens = torch.tensor([[1, 5, 9]])
    passes = {
        "run": lambda: model.run(tokens, {0: len}),
        "read": lambda: model.read(tokens, 0, torch.tensor([3])),
        "logits": lambda: model.logits(tokens),
    }
    passes[ask]()
    model.turns = Turns(path)
    with held_elsewhere(path) as holder, in_a_thread(passes[ask]) as done:
        assert not done.wait(0.2)
        holder.kill()
        assert done.wait(60)


def test_runs_of_other_homes_do_not_wait(path, tmp_path):
    with held_elsewhere(path):
        take(Turns(tmp_path / "other" / "forward_pass.lock"))
        take(Turns(None))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_holds_nothing_of_its_parents_and_takes_its_own_turn(path):
    shared = Turns(path)
    with shared.mine():
        files = [lock.file for lock in shared._queue.locks]
        child = os.fork()
        if not child:
            try:
                for file in files:
                    with pytest.raises(OSError, match="Bad file"):
                        os.fstat(file)
                with shared.mine():  # when the parent's turn has ended
                    os._exit(7)
            finally:  # never on into the tests that follow
                os._exit(1)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    take(shared)


def test_where_nothing_can_be_locked_work_goes_on_and_a_warning_says_why(tmp_path, caplog):
    (tmp_path / "locks").write_text("a file where the folder should be")
    shared = Turns(tmp_path / "locks" / "forward_pass.lock")
    for _ in range(2):
        take(shared)
    assert len(caplog.records) == 1
    assert "forward_pass.lock cannot be locked" in caplog.text
