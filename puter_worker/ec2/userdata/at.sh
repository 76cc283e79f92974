#!/bin/sh
# Puter: hands the deadline over to `at`, where `atq` shows it and `atrm` cancels it.
set -u
state=${PUTER_ROOT:-}/var/lib/puter
self=${PUTER_ROOT:-}/usr/local/sbin/puter-at
timer=puter-deadline.timer

@install@
keep_timer() {
    echo "puter: the systemd timer keeps the deadline: $1"
    exit 0
}

# The agent runs the copy when the deadline has moved.
[ "$0" = "$self" ] || { mkdir -p "${self%/*}" && cp -f "$0" "$self.new" && chmod 755 "$self.new" && mv -f "$self.new" "$self"; }

[ ! -s "$state/at-job" ] || exit 0
systemctl is-enabled --quiet "$timer" || exit 0

tries=0
until command -v at >/dev/null; do
    tries=$((tries + 1))
    [ "$tries" -le 2 ] || keep_timer 'at could not be installed'
    install_package at || sleep 5
done
{ systemctl enable atd && systemctl start atd; } || keep_timer 'atd could not be started'

# `at` drops seconds: take the next whole minute, so that no machine ends early.
minute=$((($(cat "$state/deadline") + 59) / 60 * 60))
cd / || keep_timer 'cannot change to /'
job=$(echo 'shutdown -h now' | TZ=UTC0 LC_ALL=C at -t "$(date -u -d "@$minute" +%Y%m%d%H%M)" 2>&1 |
    sed -n 's/^job \([0-9][0-9]*\) at .*/\1/p')
{ [ -n "$job" ] && at -l | grep -q "^${job}[[:space:]]"; } || keep_timer 'at did not accept the job'

umask 077
{ echo "$job" >"$state/at-job.new" && mv -f "$state/at-job.new" "$state/at-job"; } || keep_timer 'cannot write to disk'
systemctl disable "$timer"
systemctl stop "$timer"
echo "puter: job $job of at ends this machine at its deadline (show: sudo atq; cancel: sudo atrm $job)"
