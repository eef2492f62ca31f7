#!/usr/bin/env bash
# What the other scripts run on each TPU VM, over ssh.
# Usage: bash tpu/host.sh setup BUCKET MOUNT          install the code beside this file, mount the bucket
#        bash tpu/host.sh start MOUNT SCRIPT ...      start a run, detached; its folder has to be below MOUNT
#        bash tpu/host.sh status                      jaxfc: running | ended CODE | none
#        bash tpu/host.sh stop                        let the run save and leave; kill it after five minutes
# ~/.jaxfc holds the environment, and of the latest run its log, command, exit code and process id.
set -euo pipefail
cd "$(dirname "$0")/.."
state=$HOME/.jaxfc
mkdir -p "$state"
GCSFUSE_VERSION=3.11.1

setup() {
    local bucket=$1 mount=$2
    PATH=$HOME/.local/bin:$PATH
    # Some images have a Python that is too old, and uv brings one.
    command -v uv >/dev/null || PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
    [ -x "$state/venv/bin/python" ] || uv venv --quiet --python 3.12 "$state/venv"
    uv pip install --quiet --python "$state/venv/bin/python" --editable '.[tpu]'
    mountpoint --quiet "$mount" || mount_bucket "$bucket" "$mount"
}

mount_bucket() {
    local package=gcsfuse_${GCSFUSE_VERSION}_amd64.deb
    if ! command -v gcsfuse >/dev/null; then
        curl -fsSL -o "/tmp/$package" \
            "https://github.com/GoogleCloudPlatform/gcsfuse/releases/download/v$GCSFUSE_VERSION/$package"
        sudo apt-get install --quiet --yes "/tmp/$package"
    fi
    sudo mkdir -p "$2"
    sudo chown "$(id -u):$(id -g)" "$2"
    # Other hosts write here too: what is known of a file is asked for again each time.
    gcsfuse --implicit-dirs --metadata-cache-ttl-secs=0 "$1" "$2"
}

# The lock is inherited by the run and free again once it is gone, however it ended.
is_running() {
    ! flock --nonblock "$state/lock" true
}

start() {
    export MOUNT=$1 PYTHON=$state/venv/bin/python
    shift
    bash tpu/run.sh --check "$@"
    exec 9>"$state/lock"
    flock --nonblock 9 || { echo "A run is going on on $(hostname)." >&2 && exit 3; }
    rm -f "$state/exit"
    printf '%q ' "$@" >"$state/command"
    echo "$(date -u +%FT%TZ) $(cat "$state/command")" >>"$state/log"
    EXIT_FILE=$state/exit setsid bash tpu/run.sh "$@" </dev/null >>"$state/log" 2>&1 &
    echo $! >"$state/pid"
    echo "jaxfc: started on $(hostname)"
}

status() {
    if is_running; then
        echo "jaxfc: running"
    elif [ -f "$state/exit" ]; then
        echo "jaxfc: ended $(cat "$state/exit")"
    elif [ -f "$state/command" ]; then
        echo "jaxfc: ended 137"
    else
        echo "jaxfc: none"
    fi
}

stop() {
    local seconds=0
    is_running || return 0
    kill -TERM "$(cat "$state/pid")"
    while is_running && [ "$seconds" -lt 300 ]; do
        sleep 1
        seconds=$((seconds + 1))
    done
    if is_running; then
        kill -KILL -- "-$(cat "$state/pid")"
    fi
}

case ${1:-} in
    setup | start | status | stop) "$@" ;;
    *) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
esac
