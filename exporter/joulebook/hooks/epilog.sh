#!/bin/sh
# SLURM Epilog of Joulebook: says when a job gave its GPUs back.
#
#   Epilog=/usr/lib/joulebook/hooks/epilog.sh
#
# The event file of this node that prolog.sh wrote becomes <same stem>.end, with "end_ns" added.
# The daemon deletes it after it has booked the job, so nothing is lost while the daemon is down.
# Like the Prolog it never fails: an Epilog that does drains the node.

trap 'exit 0' EXIT HUP INT TERM
PATH=/usr/bin:/bin:/usr/sbin:/sbin
LC_ALL=C
export PATH LC_ALL
# Some busybox shells take their own of these, which know fewer options.
date() { /bin/date "$@"; }
dd() { /bin/dd "$@"; }
mv() { /bin/mv "$@"; }
end_ns=$(date +%s%N)
unset IFS
umask 022
exec </dev/null >/dev/null

case $end_ns in '' | *[!0-9]*) end_ns=$(date +%s)000000000 ;; esac
read -r uptime _ </proc/uptime
uptime_ms=${uptime%.*}${uptime#*.}0
case $uptime_ms in 0* | *[!0-9]*) uptime_ms=0 ;; esac

job=$SLURM_JOB_ID
case $job in '' | *[!0-9]*) exit 0 ;; esac
node=$SLURMD_NODENAME
case $node in *[!A-Za-z0-9_.-]* | .*) node= ;; esac

dir=$JOULEBOOK_EVENTS_DIR
summary=
if [ -r /etc/joulebook/hooks.conf ]; then
    while IFS='=' read -r key value; do
        case $key in
            EVENTS_DIR) [ -n "$dir" ] || dir=$value ;;
            SUMMARY) summary=$value ;;
        esac
    done </etc/joulebook/hooks.conf
fi
dir=${dir:-/run/joulebook/jobs}

# The directory may belong to the daemon's user, who must not lead root out of it by a link: where
# its parent is that user's, it has to be his too. Then it is entered, and paths are none any more.
dir=${dir%/}
above=$(stat -c %u "${dir%/*}/")
cd -P "$dir" 2>/dev/null || cd /
[ "$above" = 0 ] || [ "$above" = "$(stat -c %u .)" ] || cd /

# Reads $line of the event $1 if that is this node's. No link is followed, no pipe waited for.
mine() {
    [ -f "$1" ] || return 1
    line=$(dd if="$1" iflag=nofollow,nonblock bs=131072 count=1 status=none 2>/dev/null) || return 1
    line=${line%%"
"*}
    case $line in
        *"\"node\":\"$node\""*) ;;
        *'"node":"'*) return 1 ;;
    esac
}

# Whatever its restart count is: in the Epilog of a run that is requeued SLURM has it raised
# already. Two runs of a job are never on one node at once.
for file in "$job".*.json; do
    [ -s "$file" ] || rm -f "$file"
    mine "$file" || continue
    stem=${file%.json}
    case $line in
        '{'*'}')
            body="${line%\}},\"end_ns\":$end_ns,\"end_uptime_ms\":$uptime_ms}"
            # The end first, then the removal: killed in between, both files say the same.
            rm -f ".$stem.end.tmp"
            printf '%s\n' "$body" | dd of=".$stem.end.tmp" conv=excl status=none 2>/dev/null &&
                mv -fT ".$stem.end.tmp" "$stem.end"
            rm -f ".$stem.end.tmp"
            ;;
    esac
    rm -f "$file"
done

# Off unless asked for: three lines about its energy at the end of the job's own output.
if [ "${JOULEBOOK_SUMMARY:-$summary}" = 1 ]; then
    # This may be a link in a directory of hooks; its neighbour is beside the file itself.
    here=$(readlink -f "$0")
    for each in "${here%/*}/job_summary.sh" /usr/lib/joulebook/hooks/job_summary.sh; do
        if [ -x "$each" ]; then
            "$each"
            break
        fi
    done
fi

# Where no daemon has collected ends for a week, they must not fill /run.
case $job in
    *00) find . -maxdepth 1 -name '*.end' -mtime +7 -exec rm -f {} + ;;
esac
exit 0
