#!/usr/bin/env bash
# Make the seed model that ships with the package again, from nothing: configs/seed.yaml, about 45 CPU minutes.
set -euo pipefail
cd "$(dirname "$0")/.."

source scripts/environment.sh
make_environment .venv ""
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
.venv/bin/python scripts/train_sft.py --config configs/seed.yaml
rm -rf jaxfc/assets/seed
cp -r runs/seed/model jaxfc/assets/seed
cp runs/seed/config.yaml runs/seed/summary.json jaxfc/assets/seed/
