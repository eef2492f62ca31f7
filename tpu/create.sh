#!/usr/bin/env bash
# Ask for TPU slices: one queued resource, of one slice or of several. Returns at once; tpu/status.sh says when it is
# ACTIVE, and from then on it costs money until it is deleted.
# Usage: tpu/create.sh --project=P --zone=Z --name=N --type=T [--slices=S] [--spot] [--service-account=A]
set -euo pipefail
source "$(dirname "$0")/options.sh"
source "$(dirname "$0")/queue.sh"
read_options "$@"
need PROJECT ZONE NAME TYPE

case $GENERATION in
    v5e) runtime=v2-alpha-tpuv5-lite ;;
    v5p) runtime=v2-alpha-tpuv5 ;;
    v6e) runtime=v2-alpha-tpuv6e ;;
    *) die "$TYPE is not offered as a queued resource, only on GKE: use tpu/gke/create.sh." ;;
esac
if [ "$SLICES" -gt 1 ]; then
    nodes=(--node-count="$SLICES" --node-prefix="$NAME")
else
    nodes=(--node-id="$NAME")
fi
queued create --accelerator-type="$TYPE" --runtime-version="$runtime" "${nodes[@]}" \
    ${SPOT:+--spot} ${SERVICE_ACCOUNT:+--service-account="$SERVICE_ACCOUNT"}
