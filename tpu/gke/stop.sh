#!/usr/bin/env bash
# Ask the run to save a checkpoint and leave, and delete the JobSet. The nodes stay, and cost money, until
# tpu/gke/delete.sh.
# Usage: tpu/gke/stop.sh --project=P --zone=Z --name=N
set -euo pipefail
source "$(dirname "$0")/../options.sh"
source "$(dirname "$0")/cluster.sh"
read_options "$@"
need PROJECT ZONE NAME

cluster delete jobset "$NAME" --cascade=foreground
