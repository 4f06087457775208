# Functions for the rows: sourced by inside.sh and, in the shells of each check, by check() itself.
# shellcheck shell=bash

export DOCKER=/usr/bin/docker
docker() { "$DOCKER" "$@"; }
# A container of the runtime that is being tried.
run() { "$DOCKER" run --runtime="$R" "$@"; }
export -f docker run

until_true() {
    local seconds=$1
    shift
    local end=$((SECONDS + seconds))
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}
export -f until_true

start_dockerd() {
    dockerd --containerd /run/containerd/containerd.sock >>/run/docker-test/dockerd.log 2>&1 &
    dockerd=$!
    until_true 120 docker version
}

# need IMAGE…: rows call it for images other than bb. An image is a root file system without any meta data; the options say the rest.
# The core has bb only.
need() {
    local name
    [ -z "${core_only:-}" ] || return 0
    for name; do
        docker image inspect "$name" >/dev/null 2>&1 ||
            docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' --change 'CMD ["sh"]' \
                "$SANDBOX_CACHE/docker/$name.tar" "$name" >/dev/null || return 1
    done
}

# What differs from container to container: IDs, times, process IDs, addresses that docker gives one after the other.
normalised() {
    sed -E -e 's/[0-9a-f]{64}/ID64/g; s/\b[0-9a-f]{12}\b/ID12/g; s/[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+(Z| [+-][0-9]{4} [A-Z]+)?/TIME/g' \
        -e 's/(About a|Less than a|[0-9]+) (second|minute)s?( ago)?/AGE/g' -e "s/$R/RUNTIME/g; s/RUNTIME create failed: //"
}

# chosen TITLE: whether this one is to be run.
words=()
chosen() {
    local word
    [ -z "${core_only:-}" ] || [ -n "${in_core:-}" ] || return 1
    [ ${#words[@]} -gt 0 ] || return 0
    for word in "${words[@]}"; do
        [[ $1 != *"$word"* ]] || return 0
    done
    return 1
}

# check TITLE SCRIPT: the script gives the same output and status with both runtimes. In it, `run` is `docker run` with the runtime, $R
# the runtime's name and $N a name that no other container has.
check() {
    local title=$1 script=$2 R status
    local -A got
    chosen "$title" || return 0
    count=$((count + 1))
    for R in ${SANDBOX_RUNTIMES:-runc sandbox}; do
        export R N="t$count-$R"
        got[$R]=$(timeout "${LIMIT:-180}" bash -c "$script" 2>&1 </dev/null; echo "status $?")
        got[$R]=$(normalised <<<"${got[$R]}")
        # Whatever a failed script has left.
        docker ps -aq --filter "name=$N" | xargs -r "$DOCKER" rm -f -v >/dev/null 2>&1
    done
    if [ "${got[runc]:-}" = "${got[sandbox]:-}" ] && [[ "${got[sandbox]}" != *"status 124" ]]; then
        echo "  ok      $title ($SECONDS s)"
        [ -z "${SANDBOX_VERBOSE:-}" ] || sed 's/^/          /' <<<"${got[sandbox]}"
        passed=$((passed + 1))
    else
        echo "  FAILED  $title ($SECONDS s)"
        diff <(echo "${got[runc]:-}") <(echo "${got[sandbox]:-}") | sed 's/^/          /'
        failed=$((failed + 1))
        differ+=("$title")
    fi
}

# core check TITLE SCRIPT: a check that `make test` runs too (tests/docker/test --core). These together take ten minutes in the lab, with bb alone.
core() {
    # shellcheck disable=SC2034 # chosen() looks at it
    local in_core=1
    "$@"
}

# holds TITLE SCRIPT: what is asked of sandbox alone: the script, with -e, ends with 0. What it prints is shown when it does not. In it are
# `run`, $R and $N as in check's.
holds() {
    local title=$1 script=$2 output
    chosen "$title" || return 0
    count=$((count + 1))
    if output=$(export R=sandbox N="t$count-sandbox"; timeout "${LIMIT:-180}" bash -ec "$script" 2>&1 </dev/null || { echo "status $?"; false; }); then
        echo "  ok      $title ($SECONDS s)"
        [ -z "${SANDBOX_VERBOSE:-}" ] || sed 's/^/          /' <<<"$output"
        passed=$((passed + 1))
    else
        echo "  FAILED  $title ($SECONDS s)"
        # shellcheck disable=SC2001 # each line, not the first
        sed 's/^/          /' <<<"$output"
        failed=$((failed + 1))
        differ+=("$title")
    fi
    docker ps -aq --filter "name=t$count-sandbox" | xargs -r "$DOCKER" rm -f -v >/dev/null 2>&1
}

count=0 passed=0 failed=0 table=() differ=()
run_row() {
    local before=("$passed" "$failed") differ=()
    echo "row $(basename "$1" .sh)"
    # shellcheck source=/dev/null
    . "$1"
    table+=("$(basename "$1" .sh) $((passed - before[0])) $((failed - before[1])) $(IFS=,; echo "${differ[*]}" | sed 's/,/, /g')")
}
summary() {
    printf '%s\n' "${table[@]}" >../../build/lab/out/docker-rows
    echo "docker: $passed passed, $failed failed"
    [ "$failed" -eq 0 ]
}
