#!/usr/bin/env bash
# Make a GKE cluster with one pool of TPU nodes per slice. The nodes cost money from now on, whether a run uses them or
# not. A cluster of another name, --cluster, has to be there already, made as below.
# Usage: tpu/gke/create.sh --project=P --zone=Z --name=N --type=T --service-account=A [--slices=S] [--spot] [--cluster=C]
set -euo pipefail
source "$(dirname "$0")/../options.sh"
source "$(dirname "$0")/cluster.sh"
read_options "$@"
need PROJECT ZONE NAME TYPE SERVICE_ACCOUNT
need_gke
JOBSET_VERSION=${JOBSET_VERSION:-v0.8.0}
where=(--project="$PROJECT" --location="$ZONE")

if [ "$CLUSTER" = "$NAME" ]; then
    # One small node holds the JobSet controller.
    run gcloud container clusters create "$CLUSTER" "${where[@]}" --release-channel=rapid --machine-type=e2-standard-4 \
        --num-nodes=1 --workload-pool="$PROJECT.svc.id.goog" --addons=GcsFuseCsiDriver
fi
run gcloud container clusters get-credentials "$CLUSTER" "${where[@]}"
cluster apply --server-side \
    -f "https://github.com/kubernetes-sigs/jobset/releases/download/$JOBSET_VERSION/manifests.yaml"

# Pods act as the service account, which may use the bucket.
run gcloud iam service-accounts add-iam-policy-binding "$SERVICE_ACCOUNT" --project="$PROJECT" \
    --role=roles/iam.workloadIdentityUser --member="serviceAccount:$PROJECT.svc.id.goog[default/$ACCOUNT]"
if [ "$DRY_RUN" ] || ! cluster get serviceaccount "$ACCOUNT" >/dev/null 2>&1; then
    cluster create serviceaccount "$ACCOUNT"
fi
cluster annotate --overwrite serviceaccount "$ACCOUNT" "iam.gke.io/gcp-service-account=$SERVICE_ACCOUNT"

shape=()
if [ "$HOSTS" -gt 1 ] && [ "$GENERATION" = tpu7x ]; then
    run gcloud compute resource-policies create workload-policy "$NAME" --project="$PROJECT" --region="${ZONE%-*}" \
        --type=HIGH_THROUGHPUT --accelerator-topology="$TOPOLOGY"
    shape=(--placement-policy="$NAME")
elif [ "$HOSTS" -gt 1 ]; then
    shape=(--tpu-topology="$TOPOLOGY")
fi
for ((slice = 0; slice < SLICES; slice++)); do
    run gcloud container node-pools create "$NAME-$slice" --cluster="$CLUSTER" "${where[@]}" --machine-type="$MACHINE" \
        --num-nodes="$HOSTS" "${shape[@]}" ${SPOT:+--spot} --workload-metadata=GKE_METADATA
done
