#!/usr/bin/env bash
# Show the end of the log of every host, or follow that of the first.
# Usage: tpu/logs.sh --project=P --zone=Z --name=N [--tail=100] [--follow]
set -euo pipefail
source "$(dirname "$0")/options.sh"
source "$(dirname "$0")/queue.sh"
read_options "$@"
need PROJECT ZONE NAME

if [ "$FOLLOW" ]; then
    queued ssh --node=0 --worker=0 --command="tail -n $TAIL -F .jaxfc/log"
else
    on_hosts "tail -n $TAIL .jaxfc/log"
fi
