# shellcheck shell=sh
apt() {
    # Early in a boot the system's own updates hold apt's locks. The option waits for dpkg's, not for those of the
    # package lists and of downloads. Suspended is what would restart services that use a new library.
    until told=$(DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 LC_ALL=C \
        timeout 900 apt-get -q -o DPkg::Lock::Timeout=300 "$@" 2>&1); do
        echo "$told"
        case $told in
            */apt/lists/lock* | */apt/archives/lock*) ;;
            *) return 1 ;;
        esac
        waits=$((${waits:-0} + 1))
        [ "$waits" -lt 30 ] || return 1
        sleep 10
    done
    echo "$told"
}
install_package() {
    if command -v apt-get >/dev/null; then
        # An image has no package lists, or old ones. Recommended by `at` is a mail server, for one.
        set -- --no-install-recommends "$1"
        apt install -y "$@" || { apt update && apt install -y "$@"; }
    elif command -v dnf >/dev/null; then
        timeout 600 dnf install -y "$1"
    elif command -v yum >/dev/null; then
        timeout 600 yum install -y "$1"
    else
        echo "puter: cannot install $1: this system has neither apt-get nor dnf nor yum"
        return 1
    fi
}
