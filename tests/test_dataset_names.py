"""Valid names of data sets wherever a name is given, and the default names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from core.article.plan import ArticleSpec, reconstruction_name
from core.compression.specs import ReconstructSpec
from core.data.datasets import Dataset, load_dataset
from core.data.names import default_name, derived_name, name_fault
from core.errors import DatasetError, SpecError
from core.networks.architectures import LENET5
from core.settings import Settings
from jobs.__main__ import main
from jobs.queues import Queues

BAD = [
    "", ".", "..", " ", "a ", " a", "a/b", "a\\b", "a\nb", "a\tb", "\x1b[31mred", ".hidden", "x" * 101, "é" * 130,
    "\udce4", "\u202etxt",
]  # fmt: skip
GOOD = ["a", "ham10000", "Bilder für München", "2024-01-05", "a.b", "x" * 100, "皮肤" * 20, "<b>&amp;", "=1+1"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "moles"
    path.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    (path / "a.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return path


@pytest.mark.parametrize("name", BAD)
def test_invalid_names_are_refused_wherever_a_name_is_given(folder: Path, tmp_path: Path, name: str) -> None:
    queues = Queues(Settings(tmp_path / "data", (tmp_path,)))
    fault = name_fault(name) or ""
    assert fault.startswith("Expected a name of 1 to 100 printable characters")
    assert len(fault) < 250
    with pytest.raises(DatasetError, match="Expected a name of 1 to 100"):
        load_dataset(folder, name=name)
    with pytest.raises(DatasetError, match="Expected a name of 1 to 100"):
        queues.resolve(str(folder), name=name)
    with pytest.raises(DatasetError, match="Expected a name of 1 to 100"):
        queues.register(Dataset(name, folder, "plain", load_dataset(folder).records))
    with pytest.raises(SpecError, match="Expected a name of 1 to 100"):
        ReconstructSpec(dataset="moles", name=name, k=3)
    if name:
        with pytest.raises(SpecError, match="Expected a name of 1 to 100"):
            ArticleSpec(dataset="moles", networks=(LENET5,), reconstruction=name)


@pytest.mark.parametrize("name", GOOD)
def test_ordinary_names_are_accepted(name: str) -> None:
    assert name_fault(name) is None


@pytest.mark.parametrize("name", [".", "two\nlines", "x" * 300])
def test_the_command_line_reports_an_invalid_name(
    folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    assert main(["reconstruct", str(folder), "--k", "3", "--local", "--name", name]) == 1
    shown = capsys.readouterr().err
    assert "Expected a name of 1 to 100 printable" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize(
    ("called", "name"),
    [("two\nlines", "two_lines"), (".hidden", "hidden"), (" ", "images"), ("x" * 200, "x" * 100), ("l\udce4", "l_")],
)
def test_an_invalid_folder_name_is_turned_into_a_valid_name(called: str, name: str) -> None:
    found = default_name(Path("/data") / called)
    assert found == name
    assert name_fault(found) is None
    assert default_name(Path("/")) == "images"


def test_a_folder_with_an_invalid_name_is_loaded_under_a_valid_name(folder: Path) -> None:
    assert load_dataset(folder.rename(folder.parent / "two\nlines ")).name == "two_lines"


@pytest.mark.parametrize("dataset", ["x" * 100, "皮肤" * 40, "."])
def test_names_derived_from_a_data_sets_name_are_valid_and_keep_their_suffix(dataset: str) -> None:
    assert name_fault(derived_name(dataset, "-k350-jpeg95")) is None
    spec = ArticleSpec(dataset=dataset, networks=(LENET5,))
    first = reconstruction_name(spec, 350, frozenset())
    second = reconstruction_name(spec, 350, frozenset({first}))
    assert (first[-12:], second[-14:]) == ("-k350-jpeg95", "-k350-jpeg95-2")
    assert name_fault(first) is name_fault(second) is None


def test_an_impossible_path_raises_a_data_set_error(tmp_path: Path) -> None:
    queues = Queues(Settings(tmp_path / "data", (tmp_path,)))
    for typed in ("x" * 300, str(tmp_path / ("x" * 300)), "~nobody-of-this-name/images", "a\0b", "l\udce4sions"):
        with pytest.raises(DatasetError):
            queues.resolve(typed)
