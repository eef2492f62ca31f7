#!/usr/bin/env bash
# Build the container image from the code that git tracks, and push it. Needs docker, logged in to the registry.
# Usage: tpu/gke/setup.sh --image=IMAGE [--revision=R]
set -euo pipefail
source "$(dirname "$0")/../options.sh"
read_options "$@"
need IMAGE
cd "$(dirname "$0")/../.."

run mkdir -p build
run git archive --format=tar.gz --output=build/image.tar.gz "$REVISION"
if [ "$DRY_RUN" ]; then
    echo "docker build --platform=linux/amd64 --file=tpu/gke/Dockerfile --tag=$(quote "$IMAGE") - <build/image.tar.gz"
else
    docker build --platform=linux/amd64 --file=tpu/gke/Dockerfile --tag="$IMAGE" - <build/image.tar.gz
fi
run docker push "$IMAGE"
