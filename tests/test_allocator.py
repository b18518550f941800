"""The memory of one step serves the next: counted in page faults, in processes of their own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told anything")

COUNT = """
import resource, psutil
from harness.allocator import give_memory_back, keep_freed_memory
{first}
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    tensor, other = b"x" * 2**24, b"y" * 2**24
    del tensor, other
before = faults()
for _ in range(10):
    tensor, other = b"x" * 2**24, b"y" * 2**24
    del tensor, other
after = faults()
held = psutil.Process().memory_info().rss
give_memory_back()
print(after - before, held - psutil.Process().memory_info().rss)
"""


def faults_and_bytes_given_back(first: str) -> tuple[int, int]:
    """Page faults of ten times 32 MiB, written and freed; and what `give_memory_back` gives back after that."""
    done = subprocess.run([sys.executable, "-c", COUNT.format(first=first)], capture_output=True, text=True, check=True)
    faults, given = done.stdout.split()
    return int(faults), int(given)


def test_freed_memory_is_used_again_without_page_faults_and_given_back_when_told() -> None:
    without, _ = faults_and_bytes_given_back("pass")
    kept, given = faults_and_bytes_given_back("keep_freed_memory()")
    assert without > 100  # 82,000 of 4 KiB here; 160 where the kernel gives 2 MiB at once
    assert kept < without / 100
    assert given > 2**24
