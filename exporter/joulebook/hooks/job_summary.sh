#!/bin/sh
# Appends three lines about its energy to a job's own output (optional; see docs/job-summary.md).
#
#   SUMMARY=1 in /etc/joulebook/hooks.conf, and epilog.sh calls this; or call it from your own Epilog
#
# It returns at once, whatever comes of it: the waiting is done by a process in a session of its
# own, which slurmd does not wait for. One job at a time on a node, the others wait in flock, so that
# a thousand short jobs are not a thousand interpreters. COMMAND= in hooks.conf, or
# JOULEBOOK_COMMAND, names another joulebook.

trap 'exit 0' EXIT HUP INT TERM
PATH=/usr/bin:/bin:/usr/sbin:/sbin
LC_ALL=C.UTF-8
export PATH LC_ALL
exec </dev/null >/dev/null 2>&1
cd / || exit 0

job=$SLURM_JOB_ID
case $job in '' | *[!0-9]*) exit 0 ;; esac
uid=${SLURM_JOB_UID:-$SLURM_UID}
case $uid in '' | 0 | *[!0-9]*) exit 0 ;; esac
node=$SLURMD_NODENAME
case $node in *[!A-Za-z0-9_.-]* | .*) node= ;; esac

dir=$JOULEBOOK_EVENTS_DIR
command=$JOULEBOOK_COMMAND
if [ -r /etc/joulebook/hooks.conf ]; then
    while IFS='=' read -r key value; do
        case $key in
            EVENTS_DIR) [ -n "$dir" ] || dir=$value ;;
            COMMAND) [ -n "$command" ] || command=$value ;;
        esac
    done </etc/joulebook/hooks.conf
fi
dir=${dir:-/run/joulebook/jobs}
for each in "$command" /usr/bin/joulebook /usr/local/bin/joulebook; do
    [ -n "$each" ] && [ -x "$each" ] && command=$each && break
done
[ -x "$command" ] && [ -d "$dir" ] || exit 0

# slurmd kills the process group of a hook when it ends. The pipe is read until the step has closed
# it, which it does in its own session, so that it cannot be killed on its way there.
# shellcheck disable=SC2016,SC2034
left=$(setsid -f sh -c 'exec >/dev/null; exec "$@"' sh \
    nice -n 19 flock -w 600 "$dir/.summary.lock" timeout -k 5 180 \
    "$command" job "$job" --append --uid "$uid" --node "$node")
exit 0
