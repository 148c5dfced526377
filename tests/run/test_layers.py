"""The whole configuration stays in `ti_flax/run`; every other part takes what it needs of it."""

import ast
import re
import tomllib
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "ti_flax"


def test_only_the_run_sees_the_whole_configuration():
    seen = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE  # which only passes it on to users
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and any(name.name == "RunConfig" for name in node.names)
    }
    assert seen == {"run", "config"}


def test_the_image_of_the_house_shows_every_part():
    image = (PACKAGE.parent / "docs" / "design.md").read_text(encoding="utf-8").split("```")[1]
    parts = {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")} | {"errors.py"}
    assert all(f" {part} " in image for part in parts)
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    named = [part.strip() for layer in layers for part in layer.split("|")]
    shown = [part.strip("/").removesuffix(".py") for part in re.findall(r"[a-z]+/(?= )|errors\.py", image)]
    assert shown == named


def test_no_folder_and_no_file_is_too_large_to_find_ones_way_in():
    files = list(PACKAGE.rglob("*.py"))
    folders = {path.parent for path in files}
    assert all(len(list(folder.glob("*.py"))) <= 16 for folder in folders)
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 450 for path in files)


def test_no_function_is_too_long_to_be_seen_at_once():
    root = PACKAGE.parent
    folders = (PACKAGE, root / "scripts", root / "demo", root / "benchmarks")
    files = [root / "train_flax.py", *(path for folder in folders for path in folder.rglob("*.py"))]
    lines = {
        f"{path.relative_to(root)}: {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lines.items() if length > 60} == {}
