# shellcheck shell=bash
# Sourced by the scripts of this folder: their settings, the TPU types, and commands that are run or only shown.
# What is set here is read there:
# shellcheck disable=SC2034

# type, topology as scripts/plan.py takes it, chips, hosts, and the machine of each host on GKE.
TPU_TYPES="
v5litepod-4    v5e:2x2        4    1  ct5lp-hightpu-4t
v5litepod-8    v5e:2x4        8    1  ct5lp-hightpu-8t
v5litepod-16   v5e:4x4       16    4  ct5lp-hightpu-4t
v5litepod-32   v5e:4x8       32    8  ct5lp-hightpu-4t
v5litepod-64   v5e:8x8       64   16  ct5lp-hightpu-4t
v5litepod-128  v5e:8x16     128   32  ct5lp-hightpu-4t
v5litepod-256  v5e:16x16    256   64  ct5lp-hightpu-4t
v5p-8          v5p:2x2x1      4    1  ct5p-hightpu-4t
v5p-16         v5p:2x2x2      8    2  ct5p-hightpu-4t
v5p-32         v5p:2x2x4     16    4  ct5p-hightpu-4t
v5p-64         v5p:2x4x4     32    8  ct5p-hightpu-4t
v5p-128        v5p:4x4x4     64   16  ct5p-hightpu-4t
v5p-256        v5p:4x4x8    128   32  ct5p-hightpu-4t
v5p-512        v5p:4x8x8    256   64  ct5p-hightpu-4t
v5p-1024       v5p:8x8x8    512  128  ct5p-hightpu-4t
v6e-4          v6e:2x2        4    1  ct6e-standard-4t
v6e-8          v6e:2x4        8    1  ct6e-standard-8t
v6e-16         v6e:4x4       16    4  ct6e-standard-4t
v6e-32         v6e:4x8       32    8  ct6e-standard-4t
v6e-64         v6e:8x8       64   16  ct6e-standard-4t
v6e-128        v6e:8x16     128   32  ct6e-standard-4t
v6e-256        v6e:16x16    256   64  ct6e-standard-4t
tpu7x-8        tpu7x:2x2x1    4    1  tpu7x-standard-4t
tpu7x-16       tpu7x:2x2x2    8    2  tpu7x-standard-4t
tpu7x-32       tpu7x:2x2x4   16    4  tpu7x-standard-4t
tpu7x-64       tpu7x:2x4x4   32    8  tpu7x-standard-4t
tpu7x-128      tpu7x:4x4x4   64   16  tpu7x-standard-4t
tpu7x-256      tpu7x:4x4x8  128   32  tpu7x-standard-4t
tpu7x-512      tpu7x:4x8x8  256   64  tpu7x-standard-4t
tpu7x-1024     tpu7x:8x8x8  512  128  tpu7x-standard-4t
"

OPTIONS="PROJECT ZONE NAME TYPE SLICES SPOT BUCKET MOUNT SERVICE_ACCOUNT REVISION TAIL FOLLOW RESTARTS POLL CLUSTER IMAGE"

# Each option, its example for messages, and what it means.
explain_options() {
    cat <<'END'
  --project=my-project          Google Cloud project
  --zone=us-west4-a             zone of the TPUs
  --name=egpo                   name of what is created, and of the run's job on GKE
  --type=v5litepod-16           TPU type of one slice; tpu/README.md has the table
  --slices=2                    slices, joined over the data-centre network (1)
  --spot                        spot capacity, which can be taken away at any time
  --bucket=my-bucket            Cloud Storage bucket that every host mounts
  --mount=/gcs                  where it is mounted; the run's folder has to be in it (/gcs)
  --service-account=EMAIL       account that the hosts act as
  --revision=HEAD               revision of the code that is shipped (HEAD)
  --tail=100                    lines of each log (100)
  --follow                      go on showing the log
  --restarts=20                 how often a run is started again (20)
  --poll=60                     seconds between looks, and the shortest pause before a restart (60)
  --cluster=egpo                GKE cluster (the same as --name)
  --image=IMAGE                 container image, with its registry and tag
  --dry-run                     print the commands, quoted for pasting; run none
  --yes                         delete without asking
END
}

die() {
    echo "${0##*/}: $*" >&2
    exit 2
}

[ "${BASH_VERSINFO[0]}${BASH_VERSINFO[1]}" -ge 44 ] || die "bash $BASH_VERSION is too old; 4.4 or newer is needed."

# Read flags over the environment's values into variables, and what follows `--` into COMMAND.
read_options() {
    SLICES=${SLICES:-1} MOUNT=${MOUNT:-/gcs} REVISION=${REVISION:-HEAD} TAIL=${TAIL:-100} FOLLOW=''
    RESTARTS=${RESTARTS:-20} POLL=${POLL:-60} DRY_RUN='' YES='' COMMAND=()
    while [ $# -gt 0 ]; do
        case $1 in
            --help | -h)
                sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
                echo "Options (in the environment: PROJECT, ZONE, ...):"
                explain_options
                exit 0
                ;;
            --dry-run) DRY_RUN=1 ;;
            --yes) YES=1 ;;
            --spot | --follow) set_option "$1" 1 ;;
            --)
                COMMAND=("${@:2}")
                break
                ;;
            --*=*) set_option "${1%%=*}" "${1#*=}" ;;
            --*)
                [ $# -gt 1 ] || die "$1 needs a value; see --help."
                set_option "$1" "$2"
                shift
                ;;
            *) die "$1 is no option; see --help. The command to launch follows --." ;;
        esac
        shift
    done
    CLUSTER=${CLUSTER:-${NAME:-}}
    [[ $SLICES =~ ^[1-9][0-9]*$ ]] || die "--slices is $SLICES, but should be a number from 1."
    [[ $MOUNT == /* ]] || die "--mount is $MOUNT, but should begin with /."
}

set_option() {
    local name=${1#--}
    name=${name//-/_}
    name=${name^^}
    [[ " $OPTIONS " == *" $name "* ]] || die "unknown option $1; see --help."
    printf -v "$name" %s "$2"
}

# Refuse to go on without these settings; for TYPE, look it up too.
need() {
    local name flag missing=() examples=()
    for name in "$@"; do
        if [ -z "${!name:-}" ]; then
            flag=--${name,,}
            flag=${flag//_/-}
            missing+=("$flag")
            examples+=("$(explain_options | awk -v flag="$flag=" 'index($1, flag) == 1 { print $1 }')")
        fi
    done
    if [ ${#missing[@]} -gt 0 ]; then
        die "missing ${missing[*]}; give ${examples[*]}, for example, or set the variables in the environment."
    fi
    if [[ " $* " == *" TYPE "* ]]; then
        look_up_type
    fi
}

need_command() {
    [ ${#COMMAND[@]} -gt 0 ] || die "missing the command to launch; end with, for example:" \
        "-- scripts/train_rl.py --config configs/real_rl.yaml output=$MOUNT/runs"
}

# Set GENERATION, TOPOLOGY, HOSTS, CHIPS_PER_HOST and MACHINE from TYPE.
look_up_type() {
    local known plan chips machine hosts
    while read -r known plan chips hosts machine; do
        if [ "$known" = "$TYPE" ]; then
            GENERATION=${plan%:*} TOPOLOGY=${plan#*:} HOSTS=$hosts CHIPS_PER_HOST=$((chips / hosts)) MACHINE=$machine
            return
        fi
    done <<<"$TPU_TYPES"
    die "unknown TPU type $TYPE; known: $(awk 'NF { printf "%s%s", comma, $1; comma = ", " }' <<<"$TPU_TYPES")."
}

# One line that bash reads as these words.
quote() {
    local word line=()
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]]; then
            line+=("$word")
        elif [[ $word == --*=* ]]; then
            line+=("${word%%=*}='$(replace_quotes "${word#*=}")'")
        else
            line+=("'$(replace_quotes "$word")'")
        fi
    done
    echo "${line[*]}"
}

replace_quotes() {
    printf %s "${1//\'/"'\\''"}"
}

# Run a command, or only print it.
run() {
    if [ "$DRY_RUN" ]; then
        quote "$@"
    else
        "$@"
    fi
}

# The subject of a sentence that begins with "This deletes"; go on if the user agrees.
confirm() {
    local answer
    if [ "$DRY_RUN" ] || [ "$YES" ]; then
        return
    fi
    echo "This deletes $*." >&2
    [ -t 0 ] || die "nobody is there to agree; add --yes."
    read -r -p "Type yes to go on: " answer
    [ "$answer" = yes ] || die "nothing was deleted."
}
