#!/bin/sh
# One script under the names of many commands: it writes down how it was called, and keeps what state it needs in the
# folder MACHINE. A file in MACHINE/broken makes what it names fail.
name=${0##*/}
echo "$name $*" >>"$MACHINE/calls"
units=$PUTER_ROOT/etc/systemd/system
exists() {
    case $1 in
        atd) [ -e "$MACHINE/bin/at" ] ;;
        docker) [ -e "$MACHINE/bin/docker" ] ;;
        *) [ -s "$units/$1" ] ;;
    esac
}
case $name in
    systemctl)
        while [ "${1#--}" != "$1" ]; do shift; done
        verb=$1 unit=${2:-}
        [ "$unit" != --quiet ] || unit=$3
        [ ! -e "$MACHINE/broken/$verb-$unit" ] || exit 1
        case $verb in
            enable) exists "$unit" && touch "$MACHINE/enabled/$unit" ;;
            start | restart) exists "$unit" && touch "$MACHINE/active/$unit" ;;
            disable) rm -f "$MACHINE/enabled/$unit" ;;
            stop) rm -f "$MACHINE/active/$unit" ;;
            is-enabled) [ -e "$MACHINE/enabled/$unit" ] ;;
        esac ;;
    dnf | yum | amazon-linux-extras)
        [ ! -e "$MACHINE/broken/install-$3" ] || exit 1
        cp "$0" "$MACHINE/bin/$3"
        [ "$3" != at ] || cp "$0" "$MACHINE/bin/atrm" ;;
    apt-get)
        # As apt does: a lock that another process holds, an install without package lists, and questions to nobody.
        [ "${DEBIAN_FRONTEND:-} ${NEEDRESTART_SUSPEND:-}" = 'noninteractive 1' ] || exit 99
        for package; do :; done
        if [ -s "$MACHINE/locks" ]; then
            read -r lock <"$MACHINE/locks"
            sed -i 1d "$MACHINE/locks"
            echo "E: Could not get lock $lock. It is held by process 7 (apt-get)" >&2
            exit 100
        fi
        if [ "$package" = update ]; then
            touch "$MACHINE/lists"
            exit
        fi
        [ -e "$MACHINE/lists" ] || { echo "E: Unable to locate package $package" >&2; exit 100; }
        command=${package%.io}
        [ ! -e "$MACHINE/broken/install-$command" ] || exit 100
        [ "$package" != docker.io ] || [ ! -e "$MACHINE/client-apart" ] || exit 0
        command=${command%-cli}
        cp "$0" "$MACHINE/bin/$command"
        [ "$command" != at ] || cp "$0" "$MACHINE/bin/atrm" ;;
    at)
        if [ "$1" = -l ]; then
            for job in "$MACHINE"/jobs/*; do
                [ ! -e "$job" ] || printf '%s\tThu Jan  1 00:00:00 2026 a root\n' "${job##*/}"
            done
            exit 0
        fi
        [ "$2" -gt "$(date -u -d "@$(cat "$MACHINE/clock")" +%Y%m%d%H%M)" ] || exit 1
        number=$(($(cat "$MACHINE/last-job") + 1))
        echo "$number" >"$MACHINE/last-job"
        [ -e "$MACHINE/broken/at" ] || { echo "# $2"; cat; } >"$MACHINE/jobs/$number"
        echo 'warning: commands will be executed using /bin/sh' >&2
        echo "job $number at Thu Jan  1 00:00:00 2026" >&2 ;;
    atrm) rm "$MACHINE/jobs/$1" ;;
    docker) [ -e "$MACHINE/active/docker" ] ;;
    id) echo 1000 ;;
    setpriv) shift 6; exec "$@" ;;
    date) [ "$1" != +%s ] || exec cat "$MACHINE/clock"; exec @date@ "$@" ;;
esac
