#!/usr/bin/env bash
# Delete the queued resource and its TPU VMs, whatever runs there; the bucket stays.
# Usage: tpu/delete.sh --project=P --zone=Z --name=N [--yes]
set -euo pipefail
source "$(dirname "$0")/options.sh"
source "$(dirname "$0")/queue.sh"
read_options "$@"
need PROJECT ZONE NAME

confirm "the queued resource $NAME in $PROJECT, $ZONE, and all of its TPU VMs"
queued delete --force --quiet
