#!/usr/bin/env bash
# Start the same command on every host of every slice, as a JobSet, which starts it again when nodes are taken away or
# the run dies. Refuses while a JobSet of this name is there. The arguments reach the script as they are given here.
# Usage: tpu/gke/launch.sh --project=P --zone=Z --name=N --type=T --bucket=B --image=I [--slices=S] -- SCRIPT ...
set -euo pipefail
source "$(dirname "$0")/../options.sh"
source "$(dirname "$0")/cluster.sh"
read_options "$@"
need PROJECT ZONE NAME TYPE BUCKET IMAGE
need_gke
need_command

if [ "$DRY_RUN" ]; then
    echo "$(cluster create -f -) <<'END'"
    manifest
    echo END
else
    manifest | cluster create -f -
fi
