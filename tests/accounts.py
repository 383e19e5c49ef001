"""Runs a function as another account of this host, in a separate process, when root runs the tests."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

NOBODY = 65534


def as_nobody(act: Callable[[], object]) -> str:
    """Call a function as the account `nobody`; return "done" or the name of the exception."""
    if os.geteuid() != 0:
        pytest.skip("only root can act as another account")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        said = "done"
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
        except BaseException as error:  # the parent process reports any exception
            said = type(error).__name__
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said
