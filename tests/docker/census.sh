# What containers could leave behind on a machine with docker. Sourced by inside.sh; `itest --census` looks.
# shellcheck shell=bash

# A container of each runtime, and an exec: what the first ones make and later ones find is nobody's remains.
warm_up() {
    local R
    for R in runc sandbox; do
        run --rm bb true
        run -d --name warm-up bb sleep 1000 >/dev/null
        docker exec warm-up true
        docker rm -f warm-up >/dev/null
    done
    settled
}

# Docker goes on removing a container after `docker run --rm` has ended.
settled() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    until_true "${1:-60}" sh -c '! pgrep -x containerd-shim && [ -z "$($DOCKER ps -aq)$(ls /data/docker/containers /run/docker/containerd/daemon 2>/dev/null | grep -E "[0-9a-f]{64}")" ]'
}

# All there is, a line each. Left out: the daemons, whose processes daemons_hold counts, what dockerd makes anew when it starts, and the names of network
# namespaces, which it removes once a minute (the namespaces are mounts).
census() {
    itest --census /run/docker /run/containerd /run/sandbox /data/docker/containers /data/docker/image/overlay2/layerdb/mounts |
        grep -vE '^process [0-9]+ (itest|grep|bash|timeout|dockerd|containerd) |/run/docker/libnetwork/|^file /run/docker/netns/'
    ls -d /data/docker/overlay2/*/
}

# What there is that was not there BEFORE, once docker has come to rest.
left_since() {
    local try
    settled 120 || { echo "docker does not come to rest:"; docker ps -a; pgrep -ax containerd-shim; }
    for try in $(seq 20); do
        census >"$BEFORE.now"
        diff "$BEFORE" "$BEFORE.now" | grep -E "^(>|< mount)" >"$BEFORE.diff" || return 0
        sleep 1
    done
    echo "after $try seconds:"
    head -100 "$BEFORE.diff"
    return 1
}

# nothing_left BEFORE: a check of its own; BEFORE is a file with a census. Its script is one line: the census leaves out lines that name the
# shell it runs in, and a command line of several lines is several.
nothing_left() {
    export BEFORE=$1
    export -f settled census left_since
    LIMIT=300 holds 'nothing is left behind' left_since
}

# Of dockerd and containerd: open files, and goroutines. One may have a few more than before, as they keep connections for a while.
daemons_hold() {
    local name
    for name in dockerd containerd; do
        echo "$name-files $(find "/proc/$(pgrep -xo "$name")/fd" -mindepth 1 2>/dev/null | wc -l)"
    done
    echo "dockerd-goroutines $(docker info --format '{{.NGoroutines}}')"
    echo "dockerd-pid $(pgrep -xo dockerd)"
    echo "containerd-pid $(pgrep -xo containerd)"
}

# KiB that programs could have now, with nothing cached.
memory_free() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
    sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo
}
