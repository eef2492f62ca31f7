#!/usr/bin/env bash
# Set up and test: style, then the tests.
# Usage: bash scripts/test.sh [--all] [pytest options]       --all runs the slow tests too
# PYTHON=python3.12 picks the interpreter (3.11 or newer) of a new environment, which is kept in .venv-test.
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/environment.sh
make_environment .venv-test "[test]"

.venv-test/bin/ruff check
.venv-test/bin/ruff format --check
# Two processes: each compiles for itself, so that more would need more memory than they save time on a laptop.
.venv-test/bin/python -m pytest --numprocesses 2 --dist loadfile "$@"
