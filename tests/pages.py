"""Shared by the tests of single pages: open a page as Streamlit runs it, and read its text."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from laboratory import ROOT
from streamlit.testing.v1 import AppTest

from dashboard import words

OpenPage = Callable[..., AppTest]
APP = ROOT / "dashboard" / "app.py"


def opener(monkeypatch: pytest.MonkeyPatch, data_dir: Path, url: str, first: str = "overview") -> OpenPage:
    """Return a function that opens a page on a data folder, with query parameters. first: the default page."""
    monkeypatch.setenv("DATA_DIR", str(data_dir))
    monkeypatch.setenv("DATA_ROOTS", str(data_dir.parent))
    monkeypatch.setenv("REDIS_URL", url)

    def open_page(page: str = first, **params: str | list[str]) -> AppTest:
        test = AppTest.from_file(str(APP), default_timeout=60)
        test.switch_page(f"app_pages/{page}.py")
        for name, value in params.items():
            test.query_params[name] = value
        return ran(test)

    return open_page


def ran(part: Any) -> AppTest:
    """Run the page after a change to one of its elements, and assert that it raised no exception."""
    test: AppTest = part.run()
    assert not test.exception, [each.message for each in test.exception]
    return test


def text(test: AppTest) -> str:
    """Return the text of the page as one string, without Markdown escapes."""
    kinds = ("title", "header", "markdown", "caption", "error", "warning", "info", "success", "code")
    parts = [str(each.value) for kind in kinds for each in getattr(test, kind)]
    parts += [f"{each.label} {each.value}" for each in test.metric]
    parts += [str(each.proto.text) for each in test.get("progress")]
    parts += [each.label for each in (*test.button, *test.expander, *test.page_link, *test.download_button)]
    return plain("\n".join(parts))


def plain(markdown: str) -> str:
    """Return the text as a reader sees it, without the escapes of `words.escaped`."""
    return re.sub(r"\\(.)|&#(\d+);", lambda found: found[1] or chr(int(found[2])), markdown.replace(words.NOTHING, ""))
