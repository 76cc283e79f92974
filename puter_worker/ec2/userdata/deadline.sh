#!/bin/sh
# Puter: sets when this machine ends itself. cloud-init runs this at every boot, before anything that may fail; the agent
# runs its copy with `move` when the deadline in its file has changed.
set -u
moving=${1:-}
ttl_s='@ttl_s@'
root=${PUTER_ROOT:-}
state=$root/var/lib/puter
units=$root/etc/systemd/system
stamps=$root/var/lib/systemd/timers
timer=puter-deadline.timer

self=$root/usr/local/sbin/puter-deadline

put() { cat >"$1.new" && mv -f "$1.new" "$1"; }
keep() (umask 077 && put "$state/$1")
drop_timer() {
    systemctl disable "$timer" >/dev/null 2>&1
    systemctl --no-block stop "$timer" >/dev/null 2>&1
}
# A timer that has never run takes no notice of a time that has passed: it has run when the machine was born.
# Debian and Ubuntu reach sysinit.target, for which units wait by default, only after all boothooks: also one of the
# user's that never ends.
arm_timer() {
    mkdir -p "$units" && put "$units/puter-deadline.service" <<UNIT &&
[Unit]
Description=Shuts this machine down at its deadline (Puter)
DefaultDependencies=no

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'shutdown -h now'
UNIT
        put "$units/$timer" <<UNIT &&
[Unit]
Description=Deadline of this machine (Puter)
DefaultDependencies=no
After=time-set.target
Conflicts=shutdown.target
Before=shutdown.target

[Timer]
OnCalendar=$(date -u -d "@$deadline" '+%Y-%m-%d %H:%M:%S') UTC
Persistent=true
AccuracySec=1s

[Install]
WantedBy=timers.target
UNIT
        { mkdir -p "$stamps" && touch -d "@$(cat "$state/born")" "$stamps/stamp-$timer" || :; } &&
        systemctl daemon-reload && systemctl enable "$timer" && systemctl --no-block restart "$timer"
}

umask 022
mkdir -p "$state" "${self%/*}"
[ -n "$moving" ] || { cp -f "$0" "$self.new" && chmod 755 "$self.new" && mv -f "$self.new" "$self"; }

# An image of another machine's disk contains that machine's state: remove it.
instance=${INSTANCE_ID:-unknown}
if [ -z "$moving" ] && [ "$(cat "$state/instance" 2>/dev/null)" != "$instance" ]; then
    [ -s "$state/at-job" ] && atrm "$(cat "$state/at-job")" 2>/dev/null
    rm -f "$state/deadline" "$state/at-job" "$state"/workload.* "$state"/frame* "$state/ending" "$state/expires-at" \
        "$state"/member*
    date +%s | keep born
    echo "$instance" | keep instance
fi

now=$(date +%s)
deadline=$(cat "$state/deadline" 2>/dev/null)
job=$(cat "$state/at-job" 2>/dev/null)
case $deadline in
    never) ;;
    '' | *[!0-9]*)
        deadline=never
        if [ -n "$ttl_s" ]; then
            deadline=$((now + ttl_s))
            echo "$deadline" | keep deadline
        fi
        ;;
esac

if [ "$deadline" = never ]; then
    [ -e "$units/$timer" ] && drop_timer
    [ -n "$job" ] && atrm "$job" 2>/dev/null
    rm -f "$state/at-job"
    exit 0
fi

if [ -z "$moving" ] && [ -n "$job" ] && listed=$(at -l 2>/dev/null); then
    # The job of `at` alone decides. If it is gone from the list, the machine's owner has cancelled it: set no other.
    drop_timer
    if echo "$listed" | grep -q "^${job}[[:space:]]"; then
        systemctl enable atd
        systemctl --no-block start atd
        [ "$now" -ge "$deadline" ] && shutdown -h now
    fi
    exit 0
fi

[ -n "$moving" ] || rm -f "$state/at-job"
if ! arm_timer; then
    # This needs no disk and no unit. It holds until the next boot, which runs this script again.
    minutes=$(((deadline - now + 59) / 60))
    [ "$minutes" -gt 0 ] || minutes=0
    shutdown -h "+$minutes"
elif [ "$now" -ge "$deadline" ]; then
    shutdown -h now
elif [ -n "$moving" ]; then
    # The timer holds the new deadline now. Hand it over to `at`, as at the first boot.
    [ -n "$job" ] && atrm "$job" 2>/dev/null
    rm -f "$state/at-job"
    [ ! -x "$root/usr/local/sbin/puter-at" ] || "$root/usr/local/sbin/puter-at"
fi
exit 0
