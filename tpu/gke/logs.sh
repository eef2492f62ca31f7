#!/usr/bin/env bash
# Show the end of the log of every host, or follow that of the first.
# Usage: tpu/gke/logs.sh --project=P --zone=Z --name=N [--tail=100] [--follow]
set -euo pipefail
source "$(dirname "$0")/../options.sh"
source "$(dirname "$0")/cluster.sh"
read_options "$@"
need PROJECT ZONE NAME

pods=jobset.sigs.k8s.io/jobset-name=$NAME
if [ "$FOLLOW" ]; then
    pods+=,jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0
fi
cluster logs --selector="$pods" --container=train --prefix --tail="$TAIL" ${FOLLOW:+--follow}
