"""What another account of this host can do: tried in a process of its own, where the tests run as root."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

NOBODY = 65534


def as_nobody(act: Callable[[], object]) -> str:
    """Do something as the account `nobody`; return "done", or the name of the error that it ends in."""
    if os.geteuid() != 0:
        pytest.skip("only root can try what another account may do")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "done"
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
        except BaseException as error:  # whatever it is, the parent reports it
            said = type(error).__name__
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said
