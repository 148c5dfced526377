"""The whole configuration stays in `ti_flax/run`; every other part takes what it needs of it."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "ti_flax"


def test_only_the_run_sees_the_whole_configuration():
    seen = {
        path.relative_to(PACKAGE).parts[0]
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and any(name.name == "RunConfig" for name in node.names)
    }
    assert seen == {"run", "config"}
