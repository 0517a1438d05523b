"""A process that uses the lock of the forward pass: ``holding_lock.py FILE NUMBER``.

It says ``ready``, waits for a line, takes the lock so many times and prints when each time began and ended (ns). With
the number 0 it takes the lock once, says ``held`` and holds it until it ends.
"""

import sys
import time
from pathlib import Path

from n2g_assets.model.lock import forward_pass_lock

if __name__ == "__main__":
    lock, number = forward_pass_lock(Path(sys.argv[1])), int(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    if not number:
        with lock:
            print("held", flush=True)
            sys.stdin.read()
    for _ in range(number):
        with lock:
            began = time.monotonic_ns()
            sum(range(10_000))
            print(began, time.monotonic_ns(), flush=True)
