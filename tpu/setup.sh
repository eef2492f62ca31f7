#!/usr/bin/env bash
# Make the hosts ready: ship the code that git tracks, install it, and mount the bucket. Can be repeated.
# Usage: tpu/setup.sh --project=P --zone=Z --name=N --type=T --bucket=B [--mount=DIR] [--revision=R]
set -euo pipefail
source "$(dirname "$0")/options.sh"
source "$(dirname "$0")/queue.sh"
read_options "$@"
need PROJECT ZONE NAME TYPE BUCKET
cd "$(dirname "$0")/.."

refuse_while_running
if [ -z "$DRY_RUN" ] && [ -n "$(git status --porcelain)" ]; then
    echo "Changes that are not committed are not shipped." >&2
fi
run mkdir -p build
run git archive --format=tar.gz --prefix=jaxfc/ --output=build/jaxfc.tar.gz "$REVISION"
run gcloud compute tpus queued-resources scp build/jaxfc.tar.gz "$NAME:" --project="$PROJECT" --zone="$ZONE" \
    --node=all --worker=all
on_hosts "rm -rf jaxfc && tar xzf jaxfc.tar.gz && bash jaxfc/tpu/host.sh setup $(quote "$BUCKET" "$MOUNT")"
