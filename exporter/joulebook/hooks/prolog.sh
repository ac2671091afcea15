#!/bin/sh
# SLURM Prolog of Joulebook: says which GPUs of this node a job was given, and to whom.
#
#   Prolog=/usr/lib/joulebook/hooks/prolog.sh       (slurm.conf; or linked into Prolog=.../prolog.d)
#
# It writes EVENTS_DIR/<job id>.<restart count>.json under a temporary name and renames it. SLURM
# runs hooks as root without PATH, and drains the node of a Prolog that fails: whatever goes wrong
# here, the answer is 0. EVENTS_DIR comes from JOULEBOOK_EVENTS_DIR, else from
# /etc/joulebook/hooks.conf, else it is /run/joulebook/jobs.

trap 'exit 0' EXIT HUP INT TERM
PATH=/usr/bin:/bin:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL
# Some busybox shells take their own of these, which know fewer options.
date() { /bin/date "$@"; }
dd() { /bin/dd "$@"; }
mv() { /bin/mv "$@"; }
start_ns=$(date +%s%N)
unset IFS
set -f
umask 022
exec </dev/null >/dev/null

# A date without %N (busybox) still gives the second.
case $start_ns in '' | *[!0-9]*) start_ns=$(date +%s)000000000 ;; esac

# The same instant on the clock that no one can set: tells a stepped wall clock from a late file.
read -r uptime _ </proc/uptime
read -r boot_id </proc/sys/kernel/random/boot_id
uptime_ms=${uptime%.*}${uptime#*.}0
case $uptime_ms in 0* | *[!0-9]*) uptime_ms=0 ;; esac

# $json: a value as the inside of a JSON string. Plain text, nearly all there is, costs no process.
as_json() {
    json=$1
    [ "${#1}" -gt 2048 ] || case $1 in *[!A-Za-z0-9\ _.,:/=@%+-]*) ;; *) return ;; esac
    if [ -x /usr/bin/iconv ]; then
        json=$(printf '%s' "$1" | head -c 2048 | /usr/bin/iconv -c -f UTF-8 -t UTF-8 |
            tr '\000-\037\177' ' ' | sed 's/[\\"]/\\&/g')
    else
        json=$(printf '%s' "$1" | head -c 2048 | tr '\000-\037\177' ' ' |
            tr -cd '\040-\176' | sed 's/[\\"]/\\&/g')
    fi
}

# Appends ,"name":"value" to $body; an empty value says nothing and is left out.
text() {
    [ -n "$2" ] || return 0
    as_json "$2"
    body="$body,\"$1\":\"$json\""
}

# Appends ,"name":value to $body where the value is a number.
number() {
    case $2 in '' | *[!0-9]*) return 0 ;; esac
    body="$body,\"$1\":$2"
}

job=$SLURM_JOB_ID
case $job in '' | *[!0-9]*) exit 0 ;; esac
restart=${SLURM_JOB_RESTART_COUNT:-${SLURM_RESTART_COUNT:-0}}
case $restart in '' | *[!0-9]*) restart=0 ;; esac
node=$SLURMD_NODENAME
case $node in *[!A-Za-z0-9_.-]* | .*) node= ;; esac

dir=$JOULEBOOK_EVENTS_DIR
labels=
if [ -r /etc/joulebook/hooks.conf ]; then
    while IFS='=' read -r key value; do
        case $key in
            EVENTS_DIR) [ -n "$dir" ] || dir=$value ;;
            LABELS) labels=$value ;;
        esac
    done </etc/joulebook/hooks.conf
fi
dir=${dir:-/run/joulebook/jobs}
dir=${dir%/}
[ -d "$dir" ] || mkdir -p "$dir"
# The directory may belong to the daemon's user, who must not lead root out of it by a link: where
# its parent is that user's, it has to be his too. Then it is entered, and paths are none any more.
cd -P "$dir" 2>/dev/null || exit 0
above=$(stat -c %u "${dir%/*}/")
[ "$above" = 0 ] || [ "$above" = "$(stat -c %u .)" ] || exit 0
# Where task_prolog.sh may leave labels. Off unless asked for: it lets users write below /run.
if [ "${JOULEBOOK_LABELS:-$labels}" = 1 ] && ! [ -d labels ]; then
    mkdir -m 1777 labels
fi

gpus=
IFS=,
for gpu in $SLURM_JOB_GPUS; do
    case $gpu in '' | *[!A-Za-z0-9/_.-]*) continue ;; esac
    gpus="$gpus,\"$gpu\""
done
unset IFS

body="{\"v\":1,\"scheduler\":\"slurm\",\"job_id\":\"$job\",\"restart_count\":$restart"
body="$body,\"gpus\":[${gpus#,}],\"start_ns\":$start_ns"
text user "$SLURM_JOB_USER"
number uid "${SLURM_JOB_UID:-$SLURM_UID}"
text account "$SLURM_JOB_ACCOUNT"
text partition "$SLURM_JOB_PARTITION"
text comment "$SLURM_JOB_COMMENT"
text node "$node"
text cluster "$SLURM_CLUSTER_NAME"
number het_job_id "$SLURM_HET_JOB_ID"
# Newer versions of SLURM say when the job must have ended.
case $SLURM_JOB_START_TIME/$SLURM_JOB_END_TIME in
    *[!0-9/]*) ;;
    [1-9]?????????/[1-9]?????????) number time_limit_s "$((SLURM_JOB_END_TIME - SLURM_JOB_START_TIME))" ;;
esac
text boot_id "$boot_id"
number start_uptime_ms "$uptime_ms"
body="$body}"

# Several slurmd may share the directory (and a job may run on two of them): the first has the
# plain name, the others add their own. The temporary name, made only if it is new, is the lock.
stem=$job.$restart
# Numbers come again: the end of an earlier job of this number may wait to be booked.
[ -e "$stem.end" ] && [ -n "$node" ] && mv -fT "$stem.end" "$stem.$node.$uptime_ms.end"
write() {
    printf '%s\n' "$body" | dd of=".$1.tmp" conv=excl status=none 2>/dev/null
}
taken=1
if ! [ -e "$stem.json" ] && write "$stem"; then
    if [ -e "$stem.json" ]; then rm -f ".$stem.tmp"; else taken=; fi
fi
if [ -n "$taken" ]; then
    # This node's own event from before (a Prolog run twice) is replaced.
    line=
    [ -f "$stem.json" ] &&
        line=$(dd if="$stem.json" iflag=nofollow,nonblock bs=131072 count=1 status=none 2>/dev/null)
    case $line in
        *"\"node\":\"$node\""*) ;;
        *) [ -n "$node" ] && stem=$stem.$node ;;
    esac
    rm -f ".$stem.tmp"
    write "$stem"
fi
# On a full file system nothing was written, and nothing stays.
if [ -s ".$stem.tmp" ]; then mv -fT ".$stem.tmp" "$stem.json"; else rm -f ".$stem.tmp"; fi
exit 0
