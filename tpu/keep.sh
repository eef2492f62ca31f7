#!/usr/bin/env bash
# See a run through to its end: create the TPUs, set them up and launch, and do so again with the same command when they
# are taken away or the run dies, so that it goes on from its checkpoint. Deletes nothing when the run has ended.
# It keeps no state: stop it with Ctrl-C, start it again anywhere with the same options, and it finds where things are.
# Ends with 0 when the run has finished, with 2 when the run refused its settings, with 1 after --restarts restarts.
# Usage: tpu/keep.sh --project=P --zone=Z --name=N --type=T --bucket=B [--spot] ... -- SCRIPT [ARGUMENT...]
set -euo pipefail
here=$(dirname "$0")
source "$here/options.sh"
source "$here/queue.sh"
read_options "$@"
need PROJECT ZONE NAME TYPE BUCKET
need_command
if [ -z "$DRY_RUN" ]; then
    REVISION=$(git -C "$here" rev-parse "$REVISION")
fi
export PROJECT ZONE NAME TYPE SLICES SPOT BUCKET MOUNT SERVICE_ACCOUNT REVISION

if [ "$DRY_RUN" ]; then
    echo "# At first, and again after each preemption, when the queued resource has been deleted:"
    "$here/create.sh" --dry-run
    echo "# When it is ACTIVE, and again after the run has died:"
    "$here/setup.sh" --dry-run
    "$here/launch.sh" --dry-run -- "${COMMAND[@]}"
    echo "# When it is SUSPENDED or FAILED:"
    "$here/delete.sh" --dry-run
    exit
fi

restarts=0 pause=$POLL unreachable=0

say() {
    echo "$(date -u +%FT%TZ) $NAME: $*" >&2
}

# Count one restart, and wait longer before each.
spend_restart() {
    if [ "$restarts" -ge "$RESTARTS" ]; then
        say "started again $restarts times, and still not finished. What exists costs money: tpu/delete.sh."
        exit 1
    fi
    restarts=$((restarts + 1))
    say "$*; restart $restarts of $RESTARTS in $pause s."
    sleep "$pause"
    pause=$((pause * 2 > 900 ? 900 : pause * 2))
}

start() {
    if ! "$here/setup.sh" || ! "$here/launch.sh" -- "${COMMAND[@]}"; then
        spend_restart "could not be started"
    fi
}

replace() {
    "$here/delete.sh" --yes || say "could not be deleted; trying again."
    spend_restart "$*"
}

while true; do
    state=$(queue_state || echo unknown)
    [ "$state" = ACTIVE ] && state=$(run_state)
    [ "$state" = unreachable ] || unreachable=0
    case $state in
        ABSENT)
            say "asking for $SLICES x $TYPE."
            "$here/create.sh" || spend_restart "could not be created"
            ;;
        SUSPENDING | DELETING) say "$state." ;;
        SUSPENDED | FAILED) replace "$state" ;;
        none)
            say "setting up and launching."
            start
            ;;
        running) ;;
        "ended 0")
            say "the run has finished. What exists costs money: tpu/delete.sh."
            exit 0
            ;;
        "ended 2")
            say "the run refused its settings; tpu/logs.sh says why."
            exit 2
            ;;
        ended*)
            spend_restart "the run $state"
            # The TPUs may be on their way out, and the run the first to know.
            [ "$(queue_state || echo unknown)" != ACTIVE ] || start
            ;;
        unreachable)
            # One lost connection says little; ten in a row, that the hosts are gone.
            unreachable=$((unreachable + 1))
            [ "$unreachable" -lt 10 ] || { unreachable=0 && replace "unreachable"; }
            ;;
        *) say "$state." ;;
    esac
    sleep "$POLL"
done
