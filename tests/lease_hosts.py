"""A process of another "host" on the same folder, for tests of leases.

    python lease_hosts.py HOST SKEW ACTION FOLDER

Each host has a name and a kernel of its own; no lock of one is seen by another, as on a file system that does not share
them; and its wall clock is SKEW seconds off. Heartbeats are fast here: every 0.05 s, dead after 1 s.
"""

import os
import random
import socket
import sys
import time
from pathlib import Path

from harness.store import Locked, Lost, RunDirectory, lease

BEAT, SILENCE = 0.05, 1.0


def become(host: str, skew: float) -> None:
    """Make this process one of a host."""
    lease.BEAT, lease.SILENCE = BEAT, SILENCE
    socket.gethostname = lambda: host
    lease._kernel = lambda: f"kernel of {host}"  # type: ignore[assignment]
    real = time.time
    time.time = lambda: real() + skew


def hold(folder: Path) -> None:
    """Hold the lease until killed."""
    with RunDirectory(folder).lock():
        print("holds", flush=True)
        time.sleep(60)


def append(folder: Path) -> None:
    """Append rows while the lease is held; say when it is lost."""
    step = 0
    try:
        with RunDirectory(folder).lock():
            while True:
                RunDirectory(folder).append({"step": step, "host": socket.gethostname()})
                if step == 0:
                    print("holds", flush=True)
                step += 1
                time.sleep(0.01)
    except Lost as lost:
        print(lost, flush=True)


def contend(folder: Path) -> None:
    """Take the lease again and again until killed; say of each time whether somebody else was inside and lives."""
    run, inside = RunDirectory(folder), folder / "inside"
    print("begins", flush=True)
    while True:
        try:
            with run.lock():
                lease.check(folder)
                other = int(inside.read_text() or 0) if inside.exists() else 0
                alone = not other or not Path(f"/proc/{other}").exists()
                inside.write_text(str(os.getpid()))
                time.sleep(random.uniform(0, 0.02))
                alone = alone and inside.read_text() == str(os.getpid())
                inside.unlink()
                print("alone" if alone else f"together with {other}", flush=True)
        except Locked:
            time.sleep(random.uniform(0, 0.02))


if __name__ == "__main__":
    become(sys.argv[1], float(sys.argv[2]))
    {"hold": hold, "append": append, "contend": contend}[sys.argv[3]](Path(sys.argv[4]))
