"""The C library's allocator, told what training needs: the memory of one step serves the next. Elsewhere than in
glibc nothing happens.
"""

from __future__ import annotations

import ctypes
import gc
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_KEPT = 2**30
_LARGEST = 2**25
"""Bytes: what the process keeps, and the largest piece that it keeps, which is the most that every glibc allows."""


def keep_freed_memory() -> None:
    """Let this process keep up to 1 GiB of what it frees until `give_memory_back`, in pieces of up to 32 MiB.

    By default large tensors go back to the system at once, and the next ones of their size cost their page faults
    anew: a fifth of a forward pass over many images.
    """
    _call("mallopt", _M_MMAP_THRESHOLD, _LARGEST)
    _call("mallopt", _M_TRIM_THRESHOLD, _KEPT)


def give_memory_back() -> None:
    """Free what nothing refers to, and return it to the system."""
    gc.collect()
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function = getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
    if function is not None:  # glibc; another C library has no such function
        function(*map(ctypes.c_int, arguments))
