"""The house keeps its rules: imports point down, files stay small, all that is public is said."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from thinktune.config import json_schema, read_recipe, setting_names, shipped_recipes

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "thinktune").rglob("*.py"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def definitions(path: Path) -> Iterator[ast.stmt]:
    """Functions and classes of a file, and the methods of its public classes."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, Function | ast.ClassDef):
            yield node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (inner for inner in node.body if isinstance(inner, Function | ast.ClassDef))


def functions(path: Path) -> Iterator[Function]:
    return (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, Function))


def is_kernel(function: Function) -> bool:
    """Whether Triton compiles it: its arguments are pointers and numbers, not Python's types."""
    return any(isinstance(d, ast.Name) and d.id == "jit" for d in function.decorator_list)


def test_every_import_points_down_and_none_goes_in_a_circle() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_file_is_longer_than_300_lines(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 300


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_function_is_longer_than_60_lines(path: Path) -> None:
    lengths = {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions(path)}
    long = {name: n for name, n in lengths.items() if n > 60}
    assert long == {}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_everything_public_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
    public = [n for n in definitions(path) if not n.name.startswith("_")]  # pyright: ignore
    assert [n.name for n in public if not ast.get_docstring(n)] == []  # pyright: ignore


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_argument_and_result_is_annotated(path: Path) -> None:
    bare = []
    for f in (f for f in functions(path) if not is_kernel(f)):
        every = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
        bare += [f"{f.name}({a.arg})" for a in every if not a.annotation]
        bare += [f.name] if f.returns is None else []
    assert [name for name in bare if not name.endswith(("(self)", "(cls)"))] == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_optional_packages_are_not_imported_with_the_file(path: Path) -> None:
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add(str(node.module).partition(".")[0])
    assert not names & {
        "wandb",
        "tensorboard",
        "mlflow",
        "trackio",
        "datasets",
        "pyarrow",
        "gguf",
        "peft",
    }


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_file_is_named_for_nothing(path: Path) -> None:
    nothing = {"utils", "common", "helpers", "misc", "types", "base", "manager"}
    assert not nothing & set(path.relative_to(ROOT).with_suffix("").parts)


def test_the_newest_change_is_the_version_of_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    headings = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == project["version"] == metadata.version("thinktune")


def test_every_recipe_loads_and_says_what_it_is_for() -> None:
    recipes = shipped_recipes()
    assert recipes
    for name, path in recipes.items():
        assert read_recipe(name).base_model
        assert path.read_text().startswith("# "), name


def test_every_setting_is_described_and_there_are_fewer_than_60() -> None:
    schema = json.loads(json_schema())
    groups = [schema, *(of for of in schema["$defs"].values() if "properties" in of)]
    described = {
        name for of in groups for name, about in of["properties"].items() if "description" in about
    }
    last = {name.rpartition(".")[2] for name in setting_names()}
    assert last <= described
    assert len(setting_names()) < 60


@pytest.mark.parametrize("command", [["ruff", "check"], ["ruff", "format", "--check"]])
def test_the_style_is_kept(command: list[str]) -> None:
    tool, *words = command
    done = subprocess.run(
        [str(Path(sys.executable).with_name(tool)), *words, "--no-cache", "src"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
