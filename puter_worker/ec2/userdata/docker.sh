#!/bin/sh
# Puter: installs Docker, with the image's user in its group. It tries 3 times: early in a boot, package mirrors may
# not be reachable, and the package manager's lock may be held.
set -u
user='@user@'

@install@
install_docker() {
    command -v docker >/dev/null && return
    if command -v amazon-linux-extras >/dev/null; then
        timeout 600 amazon-linux-extras install -y docker
    elif command -v apt-get >/dev/null; then
        # From Debian 13 on, the client is a package of its own.
        install_package docker.io && { command -v docker >/dev/null || install_package docker-cli; }
    else
        install_package docker
    fi
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
