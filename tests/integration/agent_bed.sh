#!/bin/bash
# One script under the names of the commands that the agent uses on a machine. Units are processes of their own, whose
# ids and exit codes are in the folder BED; instance metadata are files in BED/metadata.
name=${0##*/}
units=$PUTER_ROOT/etc/systemd/system
case $name in
    systemctl)
        [ "$1" != --no-block ] || shift
        verb=$1
        shift
        case $verb in
            start)
                unit=$1
                [ ! -e "$BED/broken/start-$unit" ] || exit 1
                [ ! -e "$BED/$unit.pid" ] || [ -e "$BED/$unit.status" ] || exit 0
                rm -f "$BED/$unit.status" "$BED/$unit.pid"
                # The outer shell stays when all processes of the unit are killed: it notes the exit code.
                hook=BASH_ENV=${BASH_ENV:-}
                # shellcheck disable=SC2016
                BASH_ENV='' setsid bash -c 'setsid bash -c "echo \$\$ >$1.new; mv $1.new $1.pid; exec env $3 $2"; echo $? >"$1.status"' \
                    - "$BED/$unit" "$(sed -n 's/^ExecStart=//p' "$units/$unit")" "$hook" \
                    </dev/null >>"$BED/$unit.out" 2>&1 &
                until [ -e "$BED/$unit.pid" ]; do /bin/sleep 0.01; done
                ;;
            stop) [ ! -e "$BED/$1.pid" ] || kill -TERM -- "-$(cat "$BED/$1.pid")" 2>/dev/null ;;
            kill) kill -KILL -- "-$(cat "$BED/$3.pid")" 2>/dev/null ;;
            is-enabled)
                for unit; do :; done
                if [ -e "$BED/enabled/$unit" ]; then echo enabled; else echo disabled; exit 1; fi ;;
            enable) touch "$BED/enabled/$1" ;;
            disable) rm -f "$BED/enabled/$1" ;;
            show)
                if [ "$2" = ActiveState ]; then
                    state=inactive
                    [ ! -e "$BED/$3.pid" ] || [ -e "$BED/$3.status" ] || state=active
                    [ -e "$BED/broken/show" ] || echo "ActiveState=$state"
                    exit
                fi
                # For a process that a signal ended: the signal.
                code=$(cat "$BED/$3.status" 2>/dev/null || echo 0)
                echo "ExecMainStatus=$((code > 128 ? code - 128 : code))"
                ;;
            list-jobs) cat "$BED/jobs" 2>/dev/null ;;
        esac ;;
    at) cat "$BED/at-jobs" 2>/dev/null ;;
    mv) # a disk that the workload has filled has room again once the reserve is gone
        [ ! -e "$BED/broken/disk" ] || [ ! -e "$PUTER_ROOT/var/lib/puter/reserve" ] || exit 1
        exec /bin/mv "$@" ;;
    id) echo 1000 ;;
    setpriv) shift 6; exec "$@" ;;
    docker) [ ! -e "$BED/broken/docker" ] ;;
    shutdown) echo "$*" >>"$BED/shutdowns" ;;
    sleep) exec /bin/sleep "${BED_SLEEP_S:-0.02}" ;;
    curl)
        for last in "$@"; do :; done
        case $last in
            */api/token) echo token ;;
            */meta-data/*)
                item=$BED/metadata/${last#*/meta-data/}
                [ "${last##*/}" != puter:expires-at ] || printf x >>"$BED/looks"
                if [ -e "$item" ]; then cat "$item"; printf '\n200'; else printf 'not found\n404'; fi ;;
        esac ;;
esac
