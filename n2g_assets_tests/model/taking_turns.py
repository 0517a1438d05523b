"""A process that takes turns: ``taking_turns.py lock turns [--polled]``; 0 turns: takes one and holds it until it ends.

It says ``ready``, waits for a line, and then prints the nanoseconds at which each of its turns began and ended; of a
turn that it keeps, it says ``mine``.
"""

import sys
import time
from pathlib import Path

from n2g_assets.model import turns

if __name__ == "__main__":
    if "--polled" in sys.argv:
        turns.fcntl = None
    shared, number = turns.Turns(Path(sys.argv[1])), int(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    if not number:
        with shared.mine():
            print("mine", flush=True)
            sys.stdin.read()
    for _ in range(number):
        with shared.mine():
            began = time.monotonic_ns()
            sum(range(100_000))
            print(began, time.monotonic_ns(), flush=True)
