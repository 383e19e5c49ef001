"""Texts of the kiosk in each language, from the files beside this one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "hi", "mr")


@dataclass(frozen=True)
class Messages:
    """The texts of one language. code: of ISO 639-1."""

    code: str
    texts: Mapping[str, Any]

    def __call__(self, key: str, **values: object) -> str:
        """Return a text with values in the places of its braces."""
        return str(self.texts[key]).format(**values)

    def name(self, table: str, value: str) -> str:
        """Return a name from one of the tables `classes`, `sexes` and `sites`; the value itself where none is given."""
        return str(self.texts[table].get(value, value))


@cache
def messages(code: str) -> Messages:
    """Return the texts of a language, one of `LANGUAGES`."""
    return Messages(code, tomllib.loads(Path(__file__).with_name(f"{code}.toml").read_text(encoding="utf-8")))
