#!/bin/sh
# SLURM TaskProlog of Joulebook (optional): leaves a job's labels where the daemon can read them.
#
#   TaskProlog=/usr/lib/joulebook/hooks/task_prolog.sh   and   LABELS=1 in /etc/joulebook/hooks.conf
#
# For sites where the daemon may not read /proc/<pid>/environ. Runs as the user, in the user's
# environment, before each task; only the names below are ever written. SLURM interprets what a
# TaskProlog prints, so it prints nothing.

trap 'exit 0' EXIT HUP INT TERM
exec </dev/null >/dev/null 2>&1
[ "${SLURM_LOCALID:-0}" = 0 ] || exit 0
case $SLURM_JOB_ID in '' | *[!0-9]*) exit 0 ;; esac
PATH=/usr/bin:/bin
dir=$JOULEBOOK_EVENTS_DIR
unset IFS
umask 022
if [ -z "$dir" ] && [ -r /etc/joulebook/hooks.conf ]; then
    while IFS='=' read -r key value; do
        [ "$key" = EVENTS_DIR ] && dir=$value
    done </etc/joulebook/hooks.conf
fi
dir=${dir:-/run/joulebook/jobs}/labels
[ -d "$dir" ] || exit 0

# Runs in the C locale without telling the task so: what is exported here stays here.
LC_ALL=C
export PATH LC_ALL

as_json() {
    json=$1
    [ "${#1}" -gt 512 ] || case $1 in *[!A-Za-z0-9\ _.,:/=@%+-]*) ;; *) return ;; esac
    if [ -x /usr/bin/iconv ]; then
        json=$(printf '%s' "$1" | head -c 512 | /usr/bin/iconv -c -f UTF-8 -t UTF-8 |
            tr '\000-\037\177' ' ' | sed 's/[\\"]/\\&/g')
    else
        json=$(printf '%s' "$1" | head -c 512 | tr '\000-\037\177' ' ' |
            tr -cd '\040-\176' | sed 's/[\\"]/\\&/g')
    fi
}

body=
text() {
    [ -n "$2" ] || return 0
    as_json "$2"
    body="$body,\"$1\":\"$json\""
}
text SLURM_JOB_NAME "$SLURM_JOB_NAME"
text SLURM_JOB_QOS "$SLURM_JOB_QOS"
text JOULEBOOK_EXPERIMENT "$JOULEBOOK_EXPERIMENT"
text JOULEBOOK_STAGE "$JOULEBOOK_STAGE"
text WANDB_PROJECT "$WANDB_PROJECT"
text WANDB_RUN_GROUP "$WANDB_RUN_GROUP"
text WANDB_SWEEP_ID "$WANDB_SWEEP_ID"
text MLFLOW_EXPERIMENT_NAME "$MLFLOW_EXPERIMENT_NAME"

uid=$(id -u)
name=$SLURM_JOB_ID.$uid
set -C
{ printf '{%s}\n' "${body#,}" >"$dir/.$name.$$.tmp"; } &&
    mv -f "$dir/.$name.$$.tmp" "$dir/$name.json"
rm -f "$dir/.$name.$$.tmp"
exit 0
