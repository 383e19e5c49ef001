"""The variables that DermSlim reads: from the environment, from `.env`, with errors that show no secret."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from laboratory import ROOT

from benchmarks.processes import run_command
from core import settings as settings_module
from core.errors import SpecError
from core.settings import Settings, Variables, described, variables


def test_every_variable_has_a_help_text_and_a_valid_default() -> None:
    names = [name for name, _, _ in described()]
    assert "DATA_DIR" in names
    assert all(text.endswith(".") for _, _, text in described())
    defaults = {name: default for name, default, _ in described() if default}
    assert defaults["WORKER_NICENESS"] == "10"
    assert variables(defaults) == Variables.model_validate({})


def test_the_documentation_lists_each_variable_as_it_is_declared() -> None:
    lines = (ROOT / "docs" / "configuration.md").read_text().splitlines()
    for name, default, text in described():
        shown = f"`{default}`" if default else ""
        assert f"| `{name}` | {shown} | {text} |" in lines


def test_the_environment_overrides_the_env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("TRAIN_WORKERS=3\nWORKER_NICENESS=7\nDATA_DIR=elsewhere\nIMAGES_DIR=/images\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings_module, "ENV_FILE", ".env")
    monkeypatch.setenv("WORKER_NICENESS", "4")
    monkeypatch.setenv("TRAIN_WORKERS", "")
    settings = Settings.from_environment()
    assert settings.worker_niceness == 4
    assert settings.data_dir == tmp_path / "elsewhere"
    assert variables().train_workers == 3, "an empty value counts as unset"
    assert variables().given() == {"TRAIN_WORKERS": "3", "WORKER_NICENESS": "4", "DATA_DIR": "elsewhere"}


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("SVD_WORKERS", "-1", "Expected SVD_WORKERS to be a whole number from 0 to 1,024, got -1."),
        ("PORT", "80.5", "Expected PORT to be a whole number from 1 to 65,535, got 80.5."),
        ("ARRAYS_LIMIT_GB", "inf", "Expected ARRAYS_LIMIT_GB to be a number of gigabytes such as 50, got inf."),
        ("LOG_FORMAT", "xml", "Expected LOG_FORMAT to be text or json, got xml."),
    ],
)
def test_a_value_out_of_bounds_raises_an_error_with_name_expectation_and_value(
    name: str, value: str, sentence: str
) -> None:
    with pytest.raises(SpecError, match=f"^{re.escape(sentence)}$"):
        variables({name: value})


def test_settings_never_show_a_secret() -> None:
    secrets = dict.fromkeys(("DASHBOARD_PASSWORD", "METRICS_TOKEN", "WEBHOOK_SECRET"), "top-secret-value")
    given = variables(
        secrets | {"REDIS_URL": "redis://:top-secret-value@h", "WEBHOOK_URL": "https://h/top-secret-value"}
    )
    assert given.metrics_token == "top-secret-value"
    assert "top-secret-value" not in repr(given)
    assert "top-secret-value" not in repr(Settings.from_environment({"REDIS_URL": "redis://:top-secret-value@h"}))


def test_a_secret_from_the_env_file_is_masked_in_logs(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("METRICS_TOKEN=top-secret-value\n")
    code = (
        "import logging; from core.settings import Settings; from jobs import logs\n"
        "logs.set_up('command', Settings.from_environment()); logging.warning('token top-secret-value')"
    )
    done = run_command(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert "token ***" in done.stderr
    assert "top-secret-value" not in (tmp_path / "data" / "logs" / "command.jsonl").read_text()
