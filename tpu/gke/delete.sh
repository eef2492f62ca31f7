#!/usr/bin/env bash
# Delete what tpu/gke/create.sh made, whatever runs there; the bucket and the image stay. A cluster of another name,
# --cluster, stays too.
# Usage: tpu/gke/delete.sh --project=P --zone=Z --name=N --type=T [--slices=S] [--cluster=C] [--yes]
set -euo pipefail
source "$(dirname "$0")/../options.sh"
source "$(dirname "$0")/cluster.sh"
read_options "$@"
need_gke
where=(--project="$PROJECT" --location="$ZONE" --quiet)

if [ "$CLUSTER" = "$NAME" ]; then
    confirm "the cluster $CLUSTER in $PROJECT, $ZONE, and all that is in it"
    run gcloud container clusters delete "$CLUSTER" "${where[@]}"
else
    confirm "the job $NAME and the node pools $NAME-0 to $NAME-$((SLICES - 1)) of the cluster $CLUSTER in $PROJECT, $ZONE"
    cluster delete jobset "$NAME" --ignore-not-found
    for ((slice = 0; slice < SLICES; slice++)); do
        run gcloud container node-pools delete "$NAME-$slice" --cluster="$CLUSTER" "${where[@]}"
    done
fi
if [ "$HOSTS" -gt 1 ] && [ "$GENERATION" = tpu7x ]; then
    run gcloud compute resource-policies delete "$NAME" --project="$PROJECT" --region="${ZONE%-*}" --quiet
fi
