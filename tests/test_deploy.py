"""The containers, tested without Docker: their files are valid, and their commands and health checks work."""

from __future__ import annotations

import ast
import os
import re
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from laboratory import end, wait_for

from benchmarks.processes import Process, run_command
from core.errors import QueueUnavailable
from core.settings import described
from jobs.server import ping, program_for

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = Path(sys.executable).parent
GIVEN = {"VALKEY_PASSWORD": "a1b2c3d4", "DASHBOARD_PASSWORD": "correct horse battery"}
WORKERS = ("record", "svd", "train")
SET_BY_OTHERS = {
    "RQ_WORKER_ID": "RQ tells a job's process by it which worker it belongs to",
    "CUDA_VISIBLE_DEVICES": "NVIDIA's; a worker started with --gpu sets it",
    "NUMBA_CACHE_DIR": "Numba's; the Dockerfile sets it",
    "DERMSLIM_ENV_FILE": "the environment alone can name the file that is read in place of `.env`",
}


def interpolated(text: str, given: dict[str, str]) -> str:
    """Replace Compose's ${NAME:-default} and ${NAME:?message}. KeyError if a name without default is not given."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        return given.get(name) or (rest if operator == ":-" else given[name])

    return re.sub(r"\$\{(\w+)(:[-?])?([^}]*)\}", value, text)


def compose(given: dict[str, str]) -> dict[str, Any]:
    return yaml.safe_load(interpolated((ROOT / "docker-compose.yml").read_text(), given))


def ran(*command: str) -> subprocess.CompletedProcess[str]:
    return run_command(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.compose-spec", "docker-compose.yml"),
        ("vendor.citation-file-format", "CITATION.cff"),
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("custom.github-workflows-require-timeout", ".github/workflows/ci.yml"),
    ],
)
def test_each_configuration_file_follows_its_schema(schema: str, file: str) -> None:
    options = ["--default-filetype", "yaml"] if file.endswith(".cff") else []
    done = ran(str(SCRIPTS / "check-jsonschema"), "--builtin-schema", schema, *options, file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_runs_the_check_of_a_clean_clone_with_every_python() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["check"]
    assert job["steps"][-1] == {"run": ".ci/run"}
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert [f"Programming Language :: Python :: {python}" for python in job["strategy"]["matrix"]["python"]] == [
        each for each in classifiers if "Python" in each
    ]


def test_every_pre_commit_hook_runs_a_locked_program() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    locked = (ROOT / "requirements-dev.txt").read_text()
    programs = {hook["entry"].removeprefix(".venv/bin/python -m ").split()[0] for hook in hooks}
    assert programs == {"ruff", "mypy"}
    assert all(f"\n{program}==" in locked for program in programs)


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = ran(str(SCRIPTS / "hadolint"), "Dockerfile")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_compose_refuses_to_start_without_the_passwords() -> None:
    for missing in GIVEN:
        with pytest.raises(KeyError, match=missing):
            compose({name: value for name, value in GIVEN.items() if name != missing})


def explained(*, for_containers: bool) -> set[str]:
    """Return the explained variables of .env.example: those for Compose, or all, including commented ones."""
    example = (ROOT / ".env.example").read_text()
    return set(re.findall(r"(?<=\n)# [^\n]+\n" + ("" if for_containers else "#?") + r"([A-Z_]+)=", example))


def variables_read() -> set[str]:
    """Return the variables that `core.settings` declares, and those that the code reads from `os.environ`."""
    found = {name for name, _, _ in described()}
    for source in (path for folder in ("core", "jobs", "dashboard") for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
                taken, name = node.func.value, node.args[0]
            elif isinstance(node, ast.Subscript):
                taken, name = node.value, node.slice
            else:
                continue
            if ast.unparse(taken).endswith("environ") and isinstance(name, ast.Constant):
                found.add(str(name.value))
    return found


def test_every_variable_of_the_compose_file_is_explained_in_the_example() -> None:
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    assert used == explained(for_containers=True)


def test_every_variable_that_the_code_reads_is_explained_in_the_example() -> None:
    read = variables_read()
    assert {"DATA_DIR", "LOG_FORMAT", "METRICS_TOKEN", "DASHBOARD_PASSWORD", "REDIS_PASSWORD_FILE"} <= read
    assert read - explained(for_containers=False) == set(SET_BY_OTHERS)


def test_the_documentation_lists_every_variable_that_the_code_reads() -> None:
    listed = set(re.findall(r"`([A-Z_]+)`", (ROOT / "docs" / "configuration.md").read_text()))
    assert variables_read() - set(SET_BY_OTHERS) <= listed


def test_every_service_is_unprivileged_read_only_and_limited_in_memory() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    users = re.findall(r"^USER (\S+)$", dockerfile, re.MULTILINE)
    assert users[-1] == "1000:1000", "user of the last stage"
    for name, service in compose(GIVEN)["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service.get("user", users[-1]) != "root", name
        if name != "demo":
            assert service["restart"] == "unless-stopped", name
            assert "healthcheck" in service, name
            assert "memory" in service["deploy"]["resources"]["limits"], name
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name


def test_exactly_one_service_writes_the_store() -> None:
    services = compose(GIVEN)["services"]
    writers = [name for name, service in services.items() if "record" in service.get("command", ())]
    assert writers == ["record"]
    assert "replicas" not in services["record"]["deploy"]


@contextmanager
def started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = Process(
        command, cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        end(process)


def answers(url: str) -> bool:
    try:
        ping(url)
    except QueueUnavailable:
        return False
    return True


def by_hand(command: list[str]) -> list[str]:
    return [sys.executable if word == "python" else word for word in command]


def healthy(service: dict[str, Any], environment: dict[str, str], seconds: float) -> bool:
    command = by_hand(service["healthcheck"]["test"][1:])
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done = run_command(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=60)
        if done.returncode == 0:
            return True
        time.sleep(0.5)
    return False


@contextmanager
def reserved_port() -> Iterator[int]:
    """Reserve a loopback port inside the block; a server that sets SO_REUSEADDR can listen on it."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield int(holder.getsockname()[1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_and_the_health_check_of_each_service_work(tmp_path: Path) -> None:
    stack = compose(GIVEN)
    state, images = tmp_path / "state", tmp_path / "images"
    state.mkdir()
    images.mkdir()
    with ExitStack() as running:
        port, page = running.enter_context(reserved_port()), running.enter_context(reserved_port())
        # Host names and folders that differ in the containers are replaced.
        configuration = tmp_path / "valkey.conf"
        content = stack["configs"]["valkey"]["content"].replace("dir /data", f"dir {tmp_path}")
        configuration.write_text(f"{content}\nbind 127.0.0.1\nport {port}\n")
        services = stack["services"]
        assert services["valkey"]["command"] == ["valkey-server", "/etc/valkey.conf"]
        url = services["record"]["environment"]["REDIS_URL"].replace("valkey:6379", f"127.0.0.1:{port}")
        environment = {"DATA_DIR": str(state), "DATA_ROOTS": str(images), "REDIS_URL": url}
        running.enter_context(started([program_for(tmp_path).path, str(configuration)], {}))
        wait_for(lambda: answers(url), 60)
        for name in WORKERS:
            running.enter_context(started(by_hand(services[name]["command"]), environment))
        dashboard = services["dashboard"]
        served = {**environment, "DASHBOARD_PASSWORD": dashboard["environment"]["DASHBOARD_PASSWORD"]}
        # The address is that of the Dockerfile; the health check uses the container's port.
        address = {"STREAMLIT_SERVER_ADDRESS": "127.0.0.1", "STREAMLIT_SERVER_PORT": str(page)}
        running.enter_context(started(by_hand(dashboard["command"]), {**served, **address}))
        for name in WORKERS:
            assert healthy(services[name], environment, 90), name
        dashboard["healthcheck"]["test"][-1] = dashboard["healthcheck"]["test"][-1].replace(":8501", f":{page}")
        assert healthy(dashboard, served, 120), "dashboard"
