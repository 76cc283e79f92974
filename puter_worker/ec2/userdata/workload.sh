#!/bin/bash
# Puter: runs this machine's workload, once, as ec2-user, when Docker is up.
#   (no argument)          called by cloud-init: install this file
#   start NAME GENERATION  start the workload in the background
#   run NAME GENERATION    called by the systemd unit: run the workload and record its exit code
#   task                   called as ec2-user: become the workload
set -u
umask 022
root=${PUTER_ROOT:-}
state=$root/var/lib/puter
logs=$root/var/log/puter
self=$root/usr/local/sbin/puter-workload
unit=puter-workload.service
name=${2:-} generation=${3:-}

say() {
    # The console's current line may hold a login prompt: begin a new line.
    { printf '\nputer: workload %s generation %s %s\n' "$name" "$generation" "$1" >>"$root/dev/console"; } 2>/dev/null
    return 0
}
record() {
    echo "$1" >"$state/workload.exit.new" && chmod 644 "$state/workload.exit.new" &&
        mv -f "$state/workload.exit.new" "$state/workload.exit"
    say "exited with $1"
}

case ${1:-} in
    '')
        mkdir -p "${self%/*}" && cp -f "$0" "$self.new" && chmod 755 "$self.new" && mv -f "$self.new" "$self"
        ;;
    start)
        : >"$state/workload.started"
        chown ec2-user "$state/workload.run" "$state/workload.env"
        mkdir -p "$root/etc/systemd/system"
        cat >"$root/etc/systemd/system/$unit" <<UNIT
[Unit]
Description=Workload $name of Puter
After=docker.service network-online.target

[Service]
ExecStart=$self run $name $generation
TimeoutStopSec=30s
UNIT
        if ! { systemctl daemon-reload && systemctl --no-block start "$unit"; }; then
            say 'did not run: systemd could not start it'
            record 70 # EX_SOFTWARE of sysexits.h
            exit 1
        fi
        ;;
    run)
        # At a shutdown systemd sends SIGTERM to the workload and this shell; the shell stays to record the exit code.
        trap : TERM
        mkdir -p "$logs" && touch "$logs/workload.log" && chown ec2-user "$logs/workload.log"
        chmod 640 "$logs/workload.log"
        if docker version >/dev/null 2>&1; then
            cd "$root/home/ec2-user" || cd /
            HOME=$root/home/ec2-user USER=ec2-user LOGNAME=ec2-user SHELL=/bin/bash \
                runuser -u ec2-user -- "$self" task >>"$logs/workload.log" 2>&1 </dev/null
            record "$?"
        else
            say 'did not run: Docker is not up'
            echo 'puter: did not run: Docker is not up' >>"$logs/workload.log"
            record 69 # EX_UNAVAILABLE of sysexits.h
        fi
        ;;
    task)
        # The workload's variables may have the names of this script's, or of bash's own. So what is still needed is in
        # positional parameters, and bash's own are unset first: then bash gives their values no meaning. env(1) would
        # show the values in its command line, which everybody on the machine can read.
        set -- "$state/workload.run"
        while IFS= read -r -d '' pair; do set -- "$@" "$pair"; done <"$state/workload.env"
        if [ "$#" -gt 1 ]; then
            for pair in "${@:2}"; do unset -v "${pair%%=*}"; done
            export "${@:2}"
        fi 2>/dev/null
        exec /bin/bash "$1"
        ;;
esac
