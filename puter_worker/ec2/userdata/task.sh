#!/bin/sh
# Puter: stores this machine's workload, which the agent begins; compose.py adds the calls of these functions.
# All Spot machines of a launch get this file with the workloads of all: `keep` stores it, and the agent calls it with
# the machine's place once it knows that. It may be killed anywhere: workload.conf is moved into place last.
state=${PUTER_ROOT:-}/var/lib/puter
umask 077

keep() {
    cp "$0" "$state/members.new" && mv -f "$state/members.new" "$state/members"
}

task() { # key, generation, on_exit, command, pairs like NAME=VALUE
    cd "$state" || exit 1
    [ ! -e workload.conf ] || exit 0
    printf '%s\n' "key=$1" "generation=$2" "on_exit=$3" >workload.conf.new || exit 1
    printf %s "$4" >workload.run || exit 1
    shift 4
    if [ "$#" -gt 0 ]; then printf '%s\0' "$@"; fi >workload.env || exit 1
    mv -f workload.conf.new workload.conf
}

