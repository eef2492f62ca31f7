#!/usr/bin/env bash
# Run one command of this project on one host (TPU VM or container), and end with its code, which says what is next:
# 0 finished; 75 it saved and left before its end, and the same command goes on; 2 refused; else failed.
# Usage: bash tpu/run.sh [--check] SCRIPT [ARGUMENT...]       --check: only see that the settings are right
# PYTHON is the interpreter; the run's folder has to be below MOUNT, where every host sees it, if that is set; the code
# is written to EXIT_FILE, if that is set.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python}
check=''
if [ "${1:-}" = --check ]; then
    check=1
    shift
fi

[ -z "${EXIT_FILE:-}" ] || trap 'code=$?; echo "ended with exit code $code"; echo "$code" >"$EXIT_FILE"' EXIT

told='' child=''
trap 'told=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' TERM
folder=$("$python" tpu/run_folder.py "$@")
if [ "$folder" ] && [ "${MOUNT:-}" ] && [[ $folder/ != "$MOUNT"/* ]]; then
    echo "The run's folder is $folder, which no other host sees and which is lost with this one;" \
        "give a folder in the bucket: output=$MOUNT/runs" >&2
    exit 2
fi
[ -z "$check" ] || exit 0

[ -z "$told" ] || exit 75
"$python" "$@" &
child=$!
# A signal ends `wait` early, so it is asked again until the process is gone.
while wait "$child" && code=0 || code=$?; kill -0 "$child" 2>/dev/null; do :; done
wait "$child" && code=0 || code=$?
exit "$code"
