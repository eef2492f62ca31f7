# shellcheck shell=bash
# Sourced by the scripts for queued resources: the calls of gcloud that several of them make.

# Run `gcloud compute tpus queued-resources VERB NAME` with what else is given.
queued() {
    run gcloud compute tpus queued-resources "$1" "$NAME" --project="$PROJECT" --zone="$ZONE" "${@:2}"
}

# Run one line of bash on every host of every slice, all at once. Fails if it fails on any.
on_hosts() {
    queued ssh --node=all --worker=all --command="$1"
}

# The state of the queued resource, or ABSENT. Listing tells a resource that is not there from a call that failed.
queue_state() {
    local state
    state=$(gcloud compute tpus queued-resources list --project="$PROJECT" --zone="$ZONE" \
        --filter="name~/$NAME\$" --format="value(state.state)") || return
    echo "${state:-ABSENT}"
}

# What the run is doing on the hosts taken together: running, ended CODE, none or unreachable.
run_state() {
    local answers ended
    if ! answers=$(DRY_RUN='' on_hosts "bash jaxfc/tpu/host.sh status || echo jaxfc: none" 2>/dev/null); then
        echo unreachable
        return
    fi
    answers=$(grep -o 'jaxfc: .*' <<<"$answers" || true)
    ended=$(grep -c 'jaxfc: ended' <<<"$answers" || true)
    if grep -q 'jaxfc: running' <<<"$answers"; then
        echo running
    elif [ "$(grep -c . <<<"$answers")" -lt $((HOSTS * SLICES)) ]; then
        echo unreachable
    elif [ "$ended" -lt $((HOSTS * SLICES)) ]; then
        echo none
    elif grep -q 'jaxfc: ended 2$' <<<"$answers"; then
        echo "ended 2"
    else
        # The first host that did not succeed speaks for all.
        { grep 'jaxfc: ended' <<<"$answers" | grep -v 'ended 0$' || echo "jaxfc: ended 0"; } | head -n 1 | cut -c 8-
    fi
}

refuse_while_running() {
    if [ -z "$DRY_RUN" ] && [ "$(run_state)" = running ]; then
        die "a run is going on on $NAME; tpu/logs.sh shows it, tpu/stop.sh ends it."
    fi
}
