"""The documents name only files, sections, commands and options that exist."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest
from recorded import START, record_training

from core.settings import Settings
from core.store.measurements import Store
from core.training.results import EpochResult
from jobs.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(path for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")))
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS]


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_points_to_an_existing_file_and_section(name: str) -> None:
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / name).read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        if not file.exists() or (anchor and anchor not in anchors(file)):
            wrong.append(target)
    assert wrong == []


def test_the_index_names_every_document() -> None:
    linked = set(re.findall(r"\]\((\S+?\.md)", (ROOT / "docs" / "README.md").read_text()))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


def commands() -> list[str]:
    """Return each command of `dermslim` in the code blocks, with its options, once."""
    blocks = [block for path in DOCUMENTS for block in re.findall(r"```sh\n(.*?)```", path.read_text(), re.DOTALL)]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    found = [re.search(r"(?:dermslim|-m jobs) ([a-z][^#]*)", line) for line in lines]
    return sorted({match[1].strip() for match in found if match})


def test_every_command_and_option_of_the_documents_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(commands()) > 30
    wrong = []
    for command in commands():
        name, *words = shlex.split(command)
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        text = capsys.readouterr().out
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        wrong += [f"{name} {option}" for option in options if option not in text]
        assert ended.value.code == 0, name
    assert wrong == []


def test_the_python_reading_of_the_readme_draws_both_figures(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = (ROOT / "README.md").read_text().partition("## Read the results in Python")[2]
    code = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0]
    store = Store(settings.database)
    run_id = record_training(store, images=6, ends=False)
    history = [
        EpochResult(epoch, 1 / epoch, 50.0, 50.0, 50.0, 1.0, 40.0, 40.0, 40.0, seconds=1.0, images_per_second=9.0)
        for epoch in (1, 2, 3)
    ]
    store.record_epochs(run_id, 1, 0, history, START)
    store.record_training_ended(run_id, 1, None, START)
    monkeypatch.setenv("DATA_DIR", str(settings.data_dir))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reading.py").write_text(code)
    runpy.run_path(str(tmp_path / "reading.py"))
    assert "validation_accuracy" in (tmp_path / "learning-curve.html").read_text()
    assert "Melanoma against the rest" in (tmp_path / "roc.html").read_text()


def test_the_tree_in_the_readme_names_every_folder_and_only_existing_files() -> None:
    section = (ROOT / "README.md").read_text().partition("## Architecture")[2]
    tree = next(block for block in re.findall(r"```\n(.*?)```", section, re.DOTALL) if block.startswith("core/"))
    named: set[Path] = set()
    room = ROOT
    for line in tree.splitlines():
        if not line.startswith(" "):
            room = ROOT / line.split()[0]
            named.add(room)
        named |= {room / word for word in re.findall(r"(?:^ +|; +)([\w/]+(?:\.py|/))", line)}
    assert [str(path) for path in named if not path.exists()] == []
    packages = {path.parent for top in ("core", "jobs", "dashboard") for path in (ROOT / top).rglob("*.py")}
    assert packages <= named
