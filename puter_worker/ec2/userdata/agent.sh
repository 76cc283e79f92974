#!/bin/bash
# Puter's agent: runs this machine's workload once, obeys its owner's orders, and says on the console how it ended.
#   (no argument)   called by cloud-init: install this file and its units, and start the agent
#   watch           called by puter-agent.service, which starts it again whenever it ends
#   leave           called by puter-agent.service after that: if the workload has ended, say how; it may be a shutdown
#   run             called by puter-workload.service: run the workload, and write down how it ended
#   task            called as the workload's user: become the workload
#   stop            by ssh, as root: what the tag puter:order=stop orders, on machines that cannot read their tags
#   expires-at TIME by ssh, as root: what the tag puter:expires-at orders; an ISO time in UTC, or never
#
# It may be killed anywhere. What is done is in files, each moved into place when it is whole, so the next agent goes on
# from there. Only the exclusive creation of workload.started lets a workload begin, so no workload begins twice.
# In /var/lib/puter, workload.run, workload.env and workload.conf come from the machine's own part of the user data; on
# Spot machines of one launch, from members, which has the workloads of all, once the tag puter:member says which is
# this machine's (member: the first that it said). This file writes workload.started, workload.cause (why the workload
# is stopped), workload.boot (in which boot it began), workload.end, frame, frame.written, ending (the machine is to end
# whatever on_exit says), expires-at (the deadline that was last set by a tag) and reserve (room on a full disk).
# No pipe may end in what stops reading early, as grep -q does: with pipefail the writer's SIGPIPE is the pipe's answer.
# No file is written from a pipe: if its writer is killed, what came until then is taken for the whole. No $( ) runs
# while a signal is trapped: in bash 5.2, if it comes while the first $( ) of a command runs, the second one counts as a
# syntax error, and the function ends there.
set -u -o pipefail
umask 022
nonce='@nonce@'
user='@user@' home='@home@'
docker='@docker@'
born_to_end_at='@expires_at@'

root=${PUTER_ROOT:-}
state=$root/var/lib/puter
log=$root/var/log/puter/workload.log
self=$root/usr/local/sbin/puter-agent
units=$root/etc/systemd/system
workload=puter-workload.service
metadata=http://169.254.169.254/latest

longest_grace_s=120 # from SIGTERM to the deadline; a quarter of the life where that is shorter
kill_after_s=30
shutdown_after_s=10 # from the end of the workload
orders_every_s=5
output_bytes=8192 # of the frame, which thus stays under 16 KB: EC2 keeps the last 64 KB of a console
line_chars=240

key='' generation='' on_exit=''
token='' token_at=0 stopped_at='' tries=0 orders_at=0

say() {
    # The console's current line may hold a login prompt: begin a new line.
    { printf '\nputer: %s\n' "$1" >>"$root/dev/console"; } 2>/dev/null
    return 0
}
put() { cat >"$state/$1.new" && mv -f "$state/$1.new" "$state/$1"; }
now() { date +%s; }
number() { # the number in a file, or what is given
    local read=''
    [ -r "$state/$1" ] && IFS= read -r read <"$state/$1"
    case $read in '' | *[!0-9]*) read=$2 ;; esac
    echo "$read"
}

configured() {
    [ -z "$key" ] || return 0
    [ -s "$state/workload.conf" ] || return 1
    local name value
    while IFS='=' read -r name value; do
        case $name in
            key) key=$value ;;
            generation) generation=$value ;;
            on_exit) on_exit=$value ;;
        esac
    done <"$state/workload.conf"
}

# --- the workload ---

# Which member of its launch this machine is decides its tag. The first answer counts, whatever the tag says later.
become_member() {
    local told
    [ -e "$state/members" ] || return 0
    if [ ! -e "$state/member" ]; then
        sign_in && told=$(item tags/instance/puter:member) || return 0
        case $told in '' | *[!0-9]*) return 0 ;; esac
        put member <<<"$told" || return 0
    fi
    sh "$state/members" "$(cat "$state/member")" && rm -f "$state/members"
}

ended() { # exit code, result, reason
    [ ! -e "$state/workload.end" ] || return 0
    rm -f "$state/reserve" # the workload may have filled the disk
    put workload.end <<END
result=$2
exit_code=$1
started_at=$(number workload.started '')
finished_at=$(now)
reason=$3
END
    say "workload $key generation $generation: $2, exit code $1${3:+ ($3)}"
}

how_it_ended() { # exit code, whether SIGTERM came first
    local result=failed reason=''
    [ "$1" -ne 0 ] || result=succeeded
    if [ -n "$2" ] && [ -s "$state/workload.cause" ]; then
        { IFS= read -r result && IFS= read -r reason; } <"$state/workload.cause"
    elif [ -n "$2" ]; then
        # The machine is shutting down, and the agent has not asked for it.
        result=stopped reason='the machine was shut down'
        case $(systemctl list-jobs --no-legend 2>/dev/null) in
            *[[:space:]]reboot.target[[:space:]]* | *[[:space:]]kexec.target[[:space:]]*)
                result=interrupted reason='the machine was restarted' ;;
            *)
                if [ "$(now)" -ge "$(number deadline 9999999999)" ]; then
                    result=timed_out reason='the machine reached its deadline'
                fi ;;
        esac
    elif [ "$1" -gt 128 ] && [ "$1" -le 192 ]; then # Linux has 64 signals
        reason="ended by signal $(($1 - 128))"
    fi
    ended "$1" "$result" "$reason"
}

# Whoever creates this file decides what becomes of the workload: its runner, or the agent, so that none begins any more.
# SIGTERM, which may come to all processes of the unit, must not leave it half done.
claim() { (trap '' TERM && set -o noclobber && now >"$state/workload.started") 2>/dev/null; }

run() {
    configured || exit 1
    local termed='' docker_up=yes code=255 uid gid
    uid=$(id -u "$user") gid=$(id -g "$user")
    home=$root$home
    trap 'termed=yes' TERM
    [ -e "$state/workload.started" ] || cat /proc/sys/kernel/random/boot_id >"$state/workload.boot" 2>/dev/null
    [ -z "$termed" ] || exit 0 # it has not begun
    claim || exit 0
    mkdir -p "${log%/*}" && touch "$log" && chown "$user" "$log" && chmod 640 "$log"
    if [ "$docker" = yes ] && ! docker version >/dev/null 2>&1; then
        docker_up=''
    elif [ -z "$termed" ]; then
        cd "$home" 2>/dev/null || cd /
        # Not runuser: when SIGTERM comes it kills its command after 2 s, and says so in the log.
        HOME=$home USER=$user LOGNAME=$user SHELL=/bin/bash \
            setpriv --reuid "$uid" --regid "$gid" --init-groups -- "$self" task >>"$log" 2>&1 </dev/null
        code=$?
    fi
    # systemd sends SIGTERM to this process first, then to all others of the unit until it finds no new one: to what
    # writes down the end, too. From here on that is ignored, and what is run inherits it.
    trap '' TERM
    if [ -n "$termed" ] || [ -n "$docker_up" ]; then
        how_it_ended "$code" "$termed"
    else
        echo 'puter: did not run: Docker is not up' >>"$log"
        ended 69 failed 'did not run: Docker is not up' # EX_UNAVAILABLE of sysexits.h
    fi
}

task() {
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
}

begin() {
    chown "$user" "$state/workload.run" "$state/workload.env"
    runs || tries=$((tries + 1))
    if [ "$tries" -le 20 ]; then
        systemctl --no-block start "$workload"
    elif claim; then
        ended_unstarted
    fi
}

ended_unstarted() { ended 70 failed 'did not run: systemd could not start it'; } # EX_SOFTWARE of sysexits.h
ended_unbegun() {
    local result=stopped
    IFS= read -r result 2>/dev/null <"$state/workload.cause"
    ended 255 "$result" 'its machine was stopped before it began'
}

runs() {
    # No answer, from a systemd that is too busy, is no end.
    case $(systemctl show -p ActiveState "$workload" 2>/dev/null) in *=inactive | *=failed) return 1 ;; esac
    return 0
}

# The workload has begun, does not run, and nobody has written how it ended: its runner was killed, or the machine's
# power was cut.
end_unseen() {
    local code
    if [ ! -e "$state/workload.boot" ]; then # the agent has claimed it, and was ended before it said why
        if [ -e "$state/ending" ]; then ended_unbegun; else ended_unstarted; fi
        return
    fi
    if [ "$(cat "$state/workload.boot" 2>/dev/null)" != "$(cat /proc/sys/kernel/random/boot_id)" ]; then
        ended 255 interrupted 'the machine was restarted'
        return
    fi
    code=$(systemctl show -p ExecMainStatus "$workload" 2>/dev/null)
    code=${code#*=}
    case $code in '' | *[!0-9]* | 0) code=9 ;; esac
    if [ -s "$state/workload.cause" ]; then
        how_it_ended $((128 + code)) termed
    else
        ended $((128 + code)) failed "its runner was killed by signal $code"
    fi
}

# The workload, if it runs, is to end for this reason, and then the machine, whatever on_exit says.
stop_all() { # result, reason
    cause "$1" "$2"
    [ -e "$state/ending" ] || : >"$state/ending"
}

cause() { # result, reason: the first one counts
    [ -s "$state/workload.cause" ] || put workload.cause <<<"$1"$'\n'"$2" && return
    rm -f "$state/reserve" # the workload may have filled the disk
    put workload.cause <<<"$1"$'\n'"$2"
}

stop_workload() {
    local result=stopped reason=''
    if [ -z "$stopped_at" ]; then
        { IFS= read -r result && IFS= read -r reason; } 2>/dev/null <"$state/workload.cause"
        say "workload $key generation $generation: $result, sending SIGTERM ($reason)"
        systemctl --no-block stop "$workload"
        stopped_at=$(now)
    elif [ $(($(now) - stopped_at)) -ge "$kill_after_s" ]; then
        systemctl kill -s KILL "$workload" 2>/dev/null
    fi
}

# --- how it ended: the frame on the console, whose form ec2/frame.py describes ---

make_frame() {
    local text digest total at line sum
    text=$({
        echo v=1
        cat "$state/workload.end"
        [ ! -e "$state/member" ] || echo "member=$(cat "$state/member")"
        echo "output_bytes=$(stat -c %s "$log" 2>/dev/null || echo 0)"
        echo
        tail -c "$output_bytes" "$log" 2>/dev/null || :
    } | base64 -w 0) || return 1
    digest=$(printf %s "$text" | sha256sum) || return 1
    digest=${digest:0:12}
    total=$(((${#text} + line_chars - 1) / line_chars))
    for ((at = 0; at < total; at++)); do
        line="$nonce $digest $((at + 1))/$total ${text:at*line_chars:line_chars}"
        sum=$(printf %s "$line" | sha256sum) || return 1
        echo "puter:frame $line ${sum:0:8}"
    done
}

write_frame() {
    local frame
    [ -e "$state/workload.end" ] && [ ! -e "$state/frame.written" ] || return 0
    if ! frame=$(cat "$state/frame" 2>/dev/null); then
        frame=$(make_frame) || return 0 # tried again soon
        put frame <<<"$frame"
    fi
    # Twice: what the kernel writes may break into a line.
    for _ in 1 2; do
        printf '\n%s\n' "$frame" >>"$root/dev/console"
    done 2>/dev/null
    put frame.written <<<"$(now)"
}

end_machine() {
    if [ ! -e "$state/ending" ]; then
        [ "$on_exit" = shutdown ] && [ -e "$state/frame.written" ] || return 0
        [ $(($(now) - $(number frame.written 0))) -ge "$shutdown_after_s" ] || return 0
    elif [ -e "$state/workload.started" ] && [ ! -e "$state/frame.written" ]; then
        return 0
    fi
    shutdown -h now
}

# --- orders and deadline ---

# An item of the instance metadata; fails if it is not there, or nobody answers.
item() {
    local answer
    answer=$(curl -s -m 2 --noproxy '*' -w '\n%{http_code}' -H "X-aws-ec2-metadata-token: $token" \
        "$metadata/meta-data/$1" 2>/dev/null) || return 1
    case ${answer##*$'\n'} in
        200) printf %s "${answer%$'\n'*}" ;;
        *) return 1 ;;
    esac
}

sign_in() {
    [ -z "$token" ] || [ $(($(now) - token_at)) -ge 3600 ] || return 0
    token=$(curl -s -f -m 2 --noproxy '*' -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 21600' \
        "$metadata/api/token" 2>/dev/null) || token=''
    token_at=$(now)
    [ -n "$token" ]
}

heed_orders() {
    local told expires
    sign_in || return 0
    if [ ! -e "$state/ending" ]; then
        if told=$(item tags/instance/puter:order) && [ "$told" = stop ]; then
            say "order $nonce stop" # first: an agent that is killed in between says it again
            stop_all stopped 'its owner has ordered it'
        elif item spot/instance-action >/dev/null; then
            stop_all interrupted 'EC2 takes the Spot machine back'
        fi
    fi
    expires=$(cat "$state/expires-at" 2>/dev/null || echo "$born_to_end_at")
    if told=$(item tags/instance/puter:expires-at) && [ "$told" != "$expires" ]; then
        move_deadline "$told" && say "order $nonce expires-at $told" && put expires-at <<<"$told"
    fi
}

move_deadline() { # an ISO time in UTC, or never; fails with 1 for what is no time, with 2 if the disk is full
    local at=never
    if [ "$1" != never ]; then
        [[ $1 =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z$ ]] && at=$(date -u -d "$1" +%s 2>/dev/null) || return 1
    fi
    (umask 077 && put deadline <<<"$at") || return 2
    "$root/usr/local/sbin/puter-deadline" move
}

deadline_holds() { # whether something will end the machine: its owner may have cancelled that
    local job listed
    job=$(number at-job '')
    if [ -n "$job" ] && listed=$(at -l 2>/dev/null); then
        [[ $'\n'$listed == *$'\n'"$job"[[:space:]]* ]]
    else
        systemctl is-enabled --quiet puter-deadline.timer
    fi
}

# Whether the workload must end now, so that there is time to say how it ended.
deadline_is_near() {
    local deadline grace
    deadline=$(number deadline '')
    [ -n "$deadline" ] || return 1
    grace=$(((deadline - $(number born "$(now)")) / 4))
    [ "$grace" -le "$longest_grace_s" ] || grace=$longest_grace_s
    [ "$(now)" -ge $((deadline - grace)) ] && deadline_holds || return 1
    [ "$kill_after_s" -le $((grace / 2)) ] || kill_after_s=$((grace / 2))
    cause timed_out "its machine ends at $(date -u -d "@$deadline" '+%Y-%m-%d %H:%M:%S') UTC"
}

# --- the roles ---

see_to_workload() {
    [ ! -e "$state/workload.end" ] || return 0
    if [ ! -e "$state/workload.started" ]; then
        if [ -e "$state/ending" ]; then
            claim && ended_unbegun
        else
            begin
        fi
    elif runs; then
        if [ -e "$state/ending" ] || deadline_is_near; then stop_workload; fi
    elif [ ! -e "$state/workload.end" ]; then
        end_unseen
    fi
}

tick() {
    configured || become_member
    if configured; then
        see_to_workload
        write_frame
    fi
    end_machine
    if [ $(($(now) - orders_at)) -ge "$orders_every_s" ]; then
        heed_orders
        orders_at=$(now)
    fi
}

watch() {
    local id
    if sign_in && id=$(item instance-id) && [ "$id" != "$(cat "$state/instance" 2>/dev/null || echo "$id")" ]; then
        say "this disk is a copy of another machine's, and this machine was not launched by Puter: the agent does nothing"
        systemctl disable puter-agent.service
        systemctl --no-block stop puter-agent.service
        return
    fi
    while :; do
        tick
        sleep 1
    done
}

# At a shutdown systemd has stopped the workload before it stops the agent.
leave() {
    case $(systemctl is-enabled puter-agent.service 2>/dev/null) in disabled) return 0 ;; esac # of another machine
    if configured && [ -e "$state/workload.started" ]; then
        [ -e "$state/workload.end" ] || runs || end_unseen
        write_frame
    fi
}

install() {
    mkdir -p "${self%/*}" "$units" "$state"
    head -c 65536 /dev/zero >"$state/reserve"
    cp -f "$0" "$self.new" && chmod 755 "$self.new" && mv -f "$self.new" "$self"
    cat >"$units/puter-agent.service" <<UNIT
[Unit]
Description=Puter's agent: the workload, orders, the end frame
After=network-online.target docker.service
Wants=network-online.target

[Service]
ExecStart=$self watch
ExecStopPost=$self leave
Restart=always
RestartSec=1s
TimeoutStopSec=45s

[Install]
WantedBy=multi-user.target
UNIT
    # The agent is stopped after the workload, so at a shutdown it can still say how that ended.
    cat >"$units/$workload" <<UNIT
[Unit]
Description=The workload of this machine (Puter)
After=puter-agent.service

[Service]
ExecStart=$self run
TimeoutStopSec=${kill_after_s}s
UNIT
    systemctl daemon-reload
    systemctl enable puter-agent.service
    systemctl --no-block restart puter-agent.service
}

case ${1:-} in
    '') install ;;
    watch) watch ;;
    leave) leave ;;
    run) run ;;
    task) task ;;
    stop)
        stop_all stopped 'its owner has ordered it'
        say "order $nonce stop"
        ;;
    expires-at)
        move_deadline "${2:-}"
        case $? in
            1)
                echo "puter-agent: ${2:-no time}: write a time in UTC like 2026-11-27T22:00:00Z, or never" >&2
                exit 2 ;;
            2)
                echo "puter-agent: cannot write to $state: free some space, and try again" >&2
                exit 1 ;;
        esac
        say "order $nonce expires-at $2"
        ;;
esac
