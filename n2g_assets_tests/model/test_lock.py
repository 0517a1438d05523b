"""The lock of the forward pass, between real processes on a real file."""

import itertools
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

from n2g_assets.model.lock import forward_pass_lock
from n2g_assets_tests.tiny_models import load_tiny, tiny_llama

PROCESS = Path(__file__).with_name("holding_lock.py")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "locks" / "forward_pass.lock"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_tiny(tiny_llama(tmp_path_factory.mktemp("models") / "tiny", n_layers=1))


@contextmanager
def processes(path, *numbers):
    """A process for each number, all ready to begin; none outlives the block."""
    started = [
        subprocess.Popen(
            [sys.executable, PROCESS, path, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for number in numbers
    ]
    try:
        for process in started:
            assert process.stdout.readline() == "ready\n"
        for process in started:
            process.stdin.write("begin\n")
            process.stdin.flush()
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


@contextmanager
def in_a_thread(work):
    """Runs beside the block; is waited for at its end."""
    done = threading.Event()
    thread = threading.Thread(target=lambda: (work(), done.set()), daemon=True)
    thread.start()
    yield done
    thread.join(60)
    assert not thread.is_alive()


def take(lock):
    with lock:
        pass


def test_processes_never_hold_it_at_once_and_all_get_it(path):
    with processes(path, 50, 50) as both:
        outputs = [process.communicate(timeout=60)[0] for process in both]
    stamps = sorted(tuple(map(int, line.split())) for output in outputs for line in output.splitlines())
    assert len(stamps) == 100
    assert all(ended <= following for (_, ended), (following, _) in itertools.pairwise(stamps))


def test_the_passes_of_a_model_wait_for_it_and_a_killed_holder_frees_it(model, path):
    tokens = torch.tensor([[1, 5, 9]])
    passes = [
        lambda: model.run(tokens, {0: len}),
        lambda: model.read(tokens, 0, torch.tensor([3])),
        lambda: model.logits(tokens),
    ]
    for make_pass in passes:
        make_pass()  # what is checked once is checked now
    model.lock = forward_pass_lock(path)
    try:
        with processes(path, 0) as (holder,):
            assert holder.stdout.readline() == "held\n"
            with in_a_thread(passes[0]) as first, in_a_thread(passes[1]) as second, in_a_thread(passes[2]) as third:
                assert not any(done.wait(0.05) for done in (first, second, third)), "a pass did not wait"
                take(forward_pass_lock(path.with_name("of_another_home.lock")))
                holder.kill()
    finally:
        model.lock = nullcontext()


def test_it_is_reentrant_by_whatever_name_and_free_when_the_outermost_block_ends(path):
    lock, again = forward_pass_lock(path), forward_pass_lock(path.parent / ".." / "locks" / path.name)
    with ExitStack() as outermost:
        outermost.enter_context(lock)
        with in_a_thread(lambda: take(again)) as done:
            with again, lock:
                pass
            assert not done.wait(0.05)
            outermost.close()
            assert done.wait(60)


def test_an_error_frees_it(path):
    with pytest.raises(ZeroDivisionError), forward_pass_lock(path):
        raise ZeroDivisionError
    with in_a_thread(lambda: take(forward_pass_lock(path))) as done:
        assert done.wait(60)


def test_threads_hold_it_one_after_the_other(path):
    counted, inside = 0, 0

    def count():
        nonlocal counted, inside
        for _ in range(50):
            with forward_pass_lock(path):
                inside += 1
                assert inside == 1
                counted += 1
                inside -= 1

    with in_a_thread(count), in_a_thread(count):
        count()
    assert counted == 150


def test_without_a_file_nothing_is_locked():
    assert isinstance(forward_pass_lock(None), nullcontext)
