#!/bin/sh
# Puter: installs Docker, with the image's user in its group. It tries 3 times: early in a boot, package mirrors may
# not be reachable, and the package manager's lock may be held.
set -u
user='@user@'
os='@os@'

install_docker() {
    command -v docker >/dev/null && return
    case $os in
        al2) timeout 600 amazon-linux-extras install -y docker ;;
        *) timeout 600 dnf install -y docker ;;
    esac
}

tries=0
until install_docker && systemctl enable docker && systemctl start docker; do
    tries=$((tries + 1))
    if [ "$tries" -ge 3 ]; then
        echo 'puter: Docker could not be installed or started'
        exit 1
    fi
    sleep 10
done
usermod -aG docker "$user"
