#!/bin/bash
# One script under the names of those commands of a machine that Puter's agent calls and that must not reach this
# computer. Its state is in the folder MACHINE. The workload's unit is a process group of its own.
pid=$MACHINE/workload.pid
status=$MACHINE/workload.status
group() { kill "-$1" -- "-$(cat "$pid")" 2>/dev/null; }

case ${0##*/} in
    systemctl)
        [ "$1" != --no-block ] || shift
        case "$1 ${*: -1}" in
            'start puter-workload.service')
                [ ! -e "$pid" ] || exit 0
                set -m # a process group of its own
                (
                    trap : TERM # to note the exit code, when all of the group get SIGTERM
                    # It is known by its id before it begins, and begins only on a machine that nobody has ended.
                    (exec bash -c 'echo "$PPID"') >"$pid.new" && mv "$pid.new" "$pid"
                    [ ! -e "$MACHINE/off" ] || exit 0
                    "$PUTER_ROOT/usr/local/sbin/puter-agent" run
                    echo "$?" >"$status"
                ) </dev/null >>"$MACHINE/workload.out" 2>&1 &
                until [ -e "$pid" ]; do sleep 0.01; done ;;
            'stop puter-workload.service') group TERM ;;
            'kill puter-workload.service')
                group KILL
                [ -e "$status" ] || echo 137 >"$status" ;;
            'show puter-workload.service')
                if [ "$3" = ActiveState ]; then
                    if [ -e "$pid" ] && [ ! -e "$status" ]; then echo ActiveState=active; else echo ActiveState=inactive; fi
                    exit
                fi
                code=$(cat "$status")
                echo "ExecMainStatus=$((code > 128 ? code - 128 : code))" ;;
            is-*) exit 1 ;;
        esac ;;
    docker) exit 1 ;;
    id) echo 1000 ;;
    setpriv) # a workload has this computer's commands
        shift 6
        PATH=$WORKLOAD_PATH exec "$@" ;;
    shutdown)
        touch "$MACHINE/shut-down"
        kill -KILL "$PPID" ;; # the agent: the machine is off
    curl) # instance metadata, as the agent asks for it
        url=${*: -1}
        item=$MACHINE/metadata/${url#*/meta-data/}
        case $url in
            */api/token) echo token ;;
            *)
                if [ -e "$item" ]; then cat "$item" && printf '\n200'; else printf '\n404'; fi ;;
        esac ;;
    # The agent calls these three as GNU has them, which macOS does not.
    sha256sum) exec "$PYTHON" -Ic 'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest(), " -")' ;;
    base64) exec "$PYTHON" -Ic 'import base64, sys; print(end=base64.b64encode(sys.stdin.buffer.read()).decode())' ;;
    stat) exec "$PYTHON" -Ic 'import os, sys; print(os.stat(sys.argv[3]).st_size)' "$@" ;;
esac
