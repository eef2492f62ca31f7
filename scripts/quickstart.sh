#!/usr/bin/env bash
# From nothing to a trained model: set up, prepare data, EGPO from the seed model, scores before and after, a report.
# Usage: bash scripts/quickstart.sh [key=value ...]       settings of configs/quickstart.yaml, such as seed=1 name=again
# PYTHON=python3.12 picks the interpreter (3.11 or newer); EXTRA=cuda or EXTRA=tpu installs JAX for that hardware.
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/environment.sh
make_environment .venv "${EXTRA:+[$EXTRA]}"
start=$SECONDS

# Large pages take a quarter off the CPU time of large arrays.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
if [ ! -d runs/quickstart-data ]; then
    .venv/bin/python scripts/prepare_data.py --input jaxfc/assets/real_rows.jsonl --output runs/quickstart-data \
        tasks.seed=3 tasks.train=2000
fi
.venv/bin/python scripts/train_rl.py --config configs/quickstart.yaml "$@"
echo "Done in $((SECONDS - start)) s after installation. The run's folder holds summary.json and report.html." >&2
