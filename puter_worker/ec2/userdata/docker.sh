#!/bin/sh
# Puter: Docker, and ec2-user in its group. Early in a boot mirrors and locks of package managers may not be ready.
set -u
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
        echo 'puter: Docker could not be installed and started'
        exit 1
    fi
    sleep 10
done
usermod -aG docker ec2-user
