#!/usr/bin/env bash
# Show the JobSet, how often it was started again, and its pods.
# Usage: tpu/gke/status.sh --project=P --zone=Z --name=N
set -euo pipefail
source "$(dirname "$0")/../options.sh"
source "$(dirname "$0")/cluster.sh"
read_options "$@"
need PROJECT ZONE NAME

cluster get jobset "$NAME"
cluster get pods --selector="jobset.sigs.k8s.io/jobset-name=$NAME" --output=wide
