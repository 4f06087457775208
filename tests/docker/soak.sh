# soak [RUNS [AT_ONCE]]: many containers, one after the other and at once; then all is as before. Sourced by inside.sh (tests/docker/test --soak).
# shellcheck shell=bash
# shellcheck source=census.sh

export RUNS=${1:-200} AT_ONCE=${2:-20}
BEFORE=/run/docker-test/before
echo "soak: $RUNS in a row, $AT_ONCE at once"
warm_up
daemons_hold >$BEFORE.daemons
memory_free >$BEFORE.memory
census >$BEFORE

# Progress goes to the terminal, as this takes half an hour.
exec 3>&1
export LIMIT=$((RUNS * 120 + 600))
# shellcheck disable=SC2016 # expanded by holds
holds "$RUNS in a row" '
    bad=0
    for i in $(seq $RUNS); do
        got=$(run --rm --name $N bb sh -c "echo soak $i; exit $((i % 120))" 2>&1) && status=0 || status=$?
        [ "$got $status" = "soak $i $((i % 120))" ] || { echo "number $i: status $status: $got"; bad=$((bad + 1)); }
        [ $((i % 20)) -ne 0 ] || echo "          $i of $RUNS ($bad bad)" >&3
        [ $bad -lt 10 ] || break
    done
    [ $bad -eq 0 ]'
export LIMIT=$((AT_ONCE * 120 + 600))
# shellcheck disable=SC2016 # expanded by holds
holds "$AT_ONCE at once" '
    mkdir -p /run/docker-test/once
    for i in $(seq $AT_ONCE); do
        { status=0; run --rm --name $N-$i bb sh -c "echo once $i; exit $i" >/run/docker-test/once/$i 2>&1 || status=$?; echo "status $status" >>/run/docker-test/once/$i; } &
    done
    wait
    bad=0
    for i in $(seq $AT_ONCE); do
        [ "$(cat /run/docker-test/once/$i)" = "once $i
status $i" ] || { echo "number $i:"; cat /run/docker-test/once/$i; bad=1; }
    done
    rm -r /run/docker-test/once
    [ $bad -eq 0 ]'
unset LIMIT
nothing_left $BEFORE

export BEFORE
export -f daemons_hold memory_free
# shellcheck disable=SC2016 # expanded by holds
holds 'the daemons are as they were' '
    daemons_hold | tee /dev/stderr >$BEFORE.daemons.now
    # A tenth of the runs would be seen.
    join $BEFORE.daemons $BEFORE.daemons.now | awk "(\$1 ~ /pid/ && \$2 != \$3) || \$3 > \$2 + 10 && \$1 !~ /pid/ { print \$1 \": \" \$2 \" before, \" \$3 \" now\"; bad = 1 } END { exit bad }" ||
        { ls -l /proc/$(pgrep -xo dockerd)/fd /proc/$(pgrep -xo containerd)/fd; exit 1; }
    ! grep -E "level=(fatal|panic)|^panic:|^fatal error:" /run/docker-test/dockerd.log /run/docker-test/containerd.log'
# shellcheck disable=SC2016 # expanded by holds
holds 'both runtimes run' 'for R in runc sandbox; do [ "$(run --rm bb echo healthy)" = healthy ]; done; settled'
# shellcheck disable=SC2016 # expanded by holds
holds 'memory is back within 5 %' '
    for try in $(seq 10); do
        before=$(cat $BEFORE.memory) now=$(memory_free)
        echo "available: $before KiB before, $now KiB now"
        [ $((now * 100)) -lt $((before * 95)) ] || exit 0
        sleep 3
    done
    head -50 /proc/meminfo; ps -eo rss,args --sort=-rss | head -20; exit 1'
