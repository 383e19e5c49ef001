"""Whether Keras and its backend are installed: only the process that trains a network needs them."""

from __future__ import annotations

import os
from importlib.util import find_spec

from core.errors import DermSlimError

INSTALL = "Run `make setup`, or `pip install -e '.[train]'` in the project's folder."


def missing_packages() -> list[str]:
    """Return which of Keras and the backend that `KERAS_BACKEND` names (default: TensorFlow) is not installed."""
    wanted = ("keras", os.environ.get("KERAS_BACKEND") or "tensorflow")
    return [name for name in wanted if find_spec(name) is None]


def cannot_train() -> str:
    """Return a sentence that says why this installation cannot train and what to install; empty where it can."""
    missing = missing_packages()
    return f"Training needs packages that are not installed: {', '.join(missing)}. {INSTALL}" if missing else ""


def require_backend() -> None:
    """Raise a DermSlimError where Keras or its backend is not installed."""
    if sentence := cannot_train():
        raise DermSlimError(sentence)
