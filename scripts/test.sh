#!/usr/bin/env bash
# Makes a virtual environment (in $VENV, else .venv-dev), installs what the tests need, and runs
# format, lint, types, layers and tests, two files at a time. Arguments go to pytest: `scripts/test.sh -m slow`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv-dev}
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r requirements_dev.txt
"$venv/bin/ruff" format --check .
"$venv/bin/ruff" check .
"$venv/bin/lint-imports"
"$venv/bin/pyright" --pythonpath "$venv/bin/python"
"$venv/bin/python" -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
