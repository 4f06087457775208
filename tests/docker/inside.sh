#!/bin/bash
# In the lab: containerd and dockerd as Debian has them, with their data on ext4, the images, then the rows. See README.md.
# `tests/docker/test` starts it.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
. ./lib.sh

start_daemons() {
    local bin
    bin=$(command -v sandbox)
    mkdir -p /data/docker /data/containerd /etc/docker /run/docker-test
    cat >/etc/docker/daemon.json <<END
{ "data-root": "/data/docker", "storage-driver": "overlay2", "ipv6": false,
  "runtimes": { "sandbox": { "path": "$bin" } } }
END
    # Nothing pivots in the lab, whose root is an overlay over a network file system.
    export DOCKER_RAMDISK=true
    update-alternatives --set iptables /usr/sbin/iptables-legacy >/dev/null 2>&1
    containerd --root /data/containerd >/run/docker-test/containerd.log 2>&1 &
    until_true 60 test -S /run/containerd/containerd.sock || return 1
    start_dockerd
}

start_daemons || { tail -50 /run/docker-test/*.log; exit 1; }
need bb || exit 1
echo "docker: $(docker version --format '{{.Server.Version}}') is up after $SECONDS s"
rows=("$@")
[ ${#rows[@]} -gt 0 ] || rows=(rows/*.sh)
for row in "${rows[@]}"; do
    case $row in
        */*) run_row "$row" ;;
        *) for file in rows/"$row"*.sh; do run_row "$file"; done ;;
    esac
done
summary
