#!/usr/bin/env bash
# Check the code with ruff and ty, and run the tests. Does its own set-up. Arguments go to pytest: ./scripts/test.sh -k cache
set -euo pipefail
. "$(dirname "$0")/environment.sh" scroll onnx dev

ruff check .
ruff format --check .
ty check
python -m pytest --numprocesses 2 "$@"
