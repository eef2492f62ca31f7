#!/usr/bin/env bash
# Start the same command on every host, detached: it goes on when this machine is switched off. Refuses while a run is
# going on. The arguments reach the script as they are given here.
# Usage: tpu/launch.sh --project=P --zone=Z --name=N --type=T [--slices=S] -- SCRIPT [ARGUMENT...]
# Example: tpu/launch.sh -- scripts/train_rl.py --config configs/real_rl.yaml output=/gcs/runs 'name=first try'
set -euo pipefail
source "$(dirname "$0")/options.sh"
source "$(dirname "$0")/queue.sh"
read_options "$@"
need PROJECT ZONE NAME TYPE
need_command

refuse_while_running
on_hosts "bash jaxfc/tpu/host.sh start $(quote "$MOUNT" "${COMMAND[@]}")"
