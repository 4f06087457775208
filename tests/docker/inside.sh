#!/bin/bash
# In the lab: containerd and dockerd as Debian has them, with their data on ext4, the images, then the rows. See README.md.
# `tests/docker/test` starts it.
set -uo pipefail
cd "$(dirname "$0")" || exit 1
. ./lib.sh

# The daemons have their usual places, and /data.
if [ -z "${LAB:-}" ] && { pgrep -x dockerd >/dev/null || [ -e /etc/docker/daemon.json ] || [ -e /data ]; }; then
    echo "docker: this machine has a dockerd or a /data of its own: run this in the lab (SANDBOX_LAB=always)" >&2
    exit 1
fi

start_daemons() {
    local bin
    bin=$(command -v sandbox)
    mkdir -p /data/docker /data/containerd /etc/docker /run/docker-test
    cat >/etc/docker/daemon.json <<JSON
{ "data-root": "/data/docker", "storage-driver": "overlay2", "ipv6": false, "experimental": true, "live-restore": $live_restore,
  "runtimes": { "sandbox": { "path": "$bin" } } }
JSON
    # Nothing pivots in the lab, whose root is an overlay over a network file system.
    export DOCKER_RAMDISK=true
    update-alternatives --set iptables /usr/sbin/iptables-legacy >/dev/null 2>&1
    containerd --root /data/containerd >/run/docker-test/containerd.log 2>&1 &
    until_true 60 test -S /run/containerd/containerd.sock || return 1
    start_dockerd
}

all_rows() {
    local row
    local -a rows=("$@")
    [ ${#rows[@]} -gt 0 ] || rows=(rows/*.sh)
    for row in "${rows[@]}"; do
        case $row in
            */*) run_row "$row" ;;
            *) for file in rows/"$row"*.sh; do run_row "$file"; done ;;
        esac
    done
}

# The first containers make what stays, so the census begins after them.
core_rows() {
    local row
    # shellcheck disable=SC2034 # lib.sh looks at it
    core_only=1
    warm_up
    census >/run/docker-test/before
    for row in $(grep -lE '^(LIMIT=[0-9]+ )?core ' rows/*.sh); do
        run_row "$row"
    done
    unset core_only
    nothing_left /run/docker-test/before
}

mode=${1:-} live_restore=false
[ "$mode" != --faults ] || live_restore=true
start_daemons || { tail -50 /run/docker-test/*.log; exit 1; }
need bb || exit 1
echo "docker: $(docker version --format '{{.Server.Version}}') is up after $SECONDS s"
case $mode in
    --core|--soak|--faults|--bench) shift ;;
esac
case $mode in
    --core) . ./census.sh; core_rows ;;
    --soak) . ./census.sh; . ./soak.sh ;;
    --faults) . ./census.sh; . ./faults.sh ;;
    --bench) need figures && exec python3 ../bench-io ;;
    *) all_rows "$@" ;;
esac
summary
