"""Processes that end with the process that started them, and what a process takes."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import sys
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, in whatever way (Linux).

    Call it in the new process. The kernel watches the thread that started it, so start such processes from the main
    thread. parent: the id of the parent, which may have ended before the call.
    """
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def peak_memory() -> int:
    """Return the largest resident memory that this program has had, in bytes.

    Linux's `ru_maxrss` would include the process that started it, if that was larger.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.findall(r"^VmHWM:\s*(\d+) kB$", status.read_text(), re.MULTILINE)[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def processor() -> tuple[str, frozenset[str]]:
    """Return the processor's name and its flags, such as avx2; unknown where there is no /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    known = dict(line.replace("\t", "").split(":", 1) for line in lines if ":" in line)
    return known.get("model name", "unknown").strip(), frozenset(known.get("flags", "").split())
