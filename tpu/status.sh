#!/usr/bin/env bash
# Show the state of the queued resource and, when it is ACTIVE, what the run is doing on each host.
# Usage: tpu/status.sh --project=P --zone=Z --name=N
set -euo pipefail
source "$(dirname "$0")/options.sh"
source "$(dirname "$0")/queue.sh"
read_options "$@"
need PROJECT ZONE NAME

queued describe --format="value(state.state)"
if [ "$DRY_RUN" ] || [ "$(queue_state)" = ACTIVE ]; then
    on_hosts "bash jaxfc/tpu/host.sh status || echo jaxfc: none"
fi
