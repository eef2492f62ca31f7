#!/usr/bin/env bash
# Ask the run to save a checkpoint and leave, on every host. The TPUs stay, and cost money, until tpu/delete.sh.
# Usage: tpu/stop.sh --project=P --zone=Z --name=N
set -euo pipefail
source "$(dirname "$0")/options.sh"
source "$(dirname "$0")/queue.sh"
read_options "$@"
need PROJECT ZONE NAME

on_hosts "bash jaxfc/tpu/host.sh stop"
