# faults [WORD…]: what can go wrong, and what a guest can do to hurt: the container is what suffers. Sourced by inside.sh (tests/docker/test --faults).
# shellcheck shell=bash
# shellcheck source=census.sh
# shellcheck disable=SC2016 # expanded by check and holds

# What containers do. Variables, since checks are in quotes already.
export WRITES='i=0; while :; do i=$((i + 1)); echo $i >>/v/lines; echo $i >>/lines; sleep 0.1; done'
export TICKS='i=0; while :; do i=$((i + 1)); echo $i >/tick; sleep 1; done'
export FORKS='f() { f | f & }; f'
export ALLOCATES='sh -c "a=x; while :; do a=\$a\$a; done"; echo child $?; sleep 1000'
export OPENS='mkdir /d; i=10; while :; do : >/d/$i; eval "exec $i</d/$i"; i=$((i + 1)); done'
export FILLS='dd if=/dev/zero of=$0/big bs=64k 2>&1 | grep -o "No space left on device"; echo more >$0/more; echo "status $?"'

# writes NAME [OPTION…]: a container that writes lines to its root and to the volume /data/NAME, and has begun to.
writes() {
    local name=$1
    shift
    mkdir -p "/data/$name"
    rm -f "/data/$name/lines"
    run -d --name "$name" -v "/data/$name:/v" "$@" bb sh -c "$WRITES" >/dev/null
    until_true 60 longer "$name" 3
}
longer() { [ "$(wc -l <"/data/$1/lines")" -gt "$2" ]; }
# Lines that were written are there, whole and in order.
whole() { seq 1 "$(wc -l <"/data/$1/lines")" | cmp - "/data/$1/lines" && echo 'what was written is whole'; }
# goes_on NAME: it writes more.
goes_on() {
    until_true 60 longer "$1" "$(wc -l <"/data/$1/lines")" && echo 'it writes'
}

tick() { timeout 120 "$DOCKER" exec "witness-$1" cat /tick 2>/dev/null | grep . || echo 0; }
ticks() { [ "$(tick "$1")" -gt "$2" ]; }
# Meanwhile: a container of each runtime, the daemons, the host.
others_go_on() (
    unset DOCKER_HOST
    for other in runc sandbox; do
        until_true 100 ticks "$other" "$(tick "$other")" || { echo "witness-$other stands still"; exit 1; }
    done
    [ "$(timeout 60 "$DOCKER" ps -q --filter name=witness- | wc -l)" = 2 ] || { echo 'docker ps has lost a witness'; exit 1; }
    [ "$(pgrep -xo containerd)" = "$CONTAINERD" ] || { echo 'containerd is another one'; exit 1; }
    echo kept >/data/host && [ "$(cat /data/host)" = kept ] || { echo 'the host cannot write'; exit 1; }
    echo 'the others go on'
)
ended() { docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' "$1"; }
export -f writes longer whole goes_on tick ticks others_go_on ended
CONTAINERD=$(pgrep -xo containerd)
export CONTAINERD LIMIT=400 SMALL=unix:///run/docker-small/sock

killed_processes() {
    # An exit status of its own: the container did not end by itself, nor by a signal.
    holds 'the monitor is killed' '
        writes $N
        id=$(docker inspect -f "{{.Id}}" $N)
        pkill -9 -f "^sandbox: $id monitor"
        timeout 60 docker wait $N
        ended $N | tee /dev/stderr | grep -qx "exited 255 false"
        ! pgrep -af "^sandbox: $id"
        whole $N; others_go_on
        docker start $N >/dev/null; goes_on $N
        docker rm -f $N >/dev/null; rm -r /data/$N'
    check 'the shim is killed' '
        writes $N
        id=$(docker inspect -f "{{.Id}}" $N)
        kill -9 $(pgrep -f "containerd-shim-runc-v2 .*-id $id ")
        timeout 100 docker wait $N; ended $N
        pgrep -af "^sandbox: $id"
        whole $N; others_go_on
        docker start $N >/dev/null && goes_on $N
        docker rm -f $N >/dev/null; rm -r /data/$N'
}

# small_dockerd: a second dockerd, whose data is on a small disk, and whose runtimes keep their state on one of their own. It has no network.
small_dockerd() {
    local bin
    bin=$(command -v sandbox)
    truncate -s 64M /data/small.img
    mkfs.ext4 -q -F -m 0 /data/small.img
    mkdir -p /data/small /run/docker-small
    mount -o loop /data/small.img /data/small || { echo 'the small disk cannot be mounted'; return 1; }
    cat >/run/docker-test/small.json <<JSON
{ "data-root": "/data/small", "exec-root": "/run/docker-small", "pidfile": "/run/docker-small/pid", "hosts": ["$SMALL"],
  "storage-driver": "overlay2", "bridge": "none", "iptables": false, "ip-masq": false,
  "containerd": "/run/containerd/containerd.sock",
  "runtimes": { "sandbox": { "path": "$bin" } } }
JSON
    for R in runc sandbox; do
        mkdir -p "/run/docker-small/runtime-$R"
        mount -t tmpfs -o size=512k,mode=711 state "/run/docker-small/runtime-$R"
    done
    dockerd --config-file /run/docker-test/small.json --containerd-namespace small --containerd-plugins-namespace small-plugins >/run/docker-test/small.log 2>&1 &
    small=$!
    DOCKER_HOST=$SMALL until_true 120 docker version && DOCKER_HOST=$SMALL need bb ||
        { echo 'the small dockerd does not start:'; tail -20 /run/docker-test/small.log; return 1; }
}
end_small_dockerd() {
    [ -z "${small:-}" ] || { kill "$small" 2>/dev/null; wait "$small"; }
    umount /run/docker-small/runtime-* /data/small
    rm -rf /run/docker-small /data/small /data/small.img
}

full_disks() {
    check 'the disk below the root is full' '
        export DOCKER_HOST=$SMALL
        run -d --name $N --network none bb sleep 1000 >/dev/null
        docker exec $N sh -c "$FILLS" "" 2>&1
        docker exec $N echo alive; docker inspect -f "{{.State.Running}}" $N
        run --rm --network none --name $N-2 bb true >/dev/null 2>&1 || echo no more containers; docker rm -f $N-2 >/dev/null 2>&1
        others_go_on
        docker exec $N rm /big; docker exec $N sh -c "echo again >/more; cat /more"
        docker stop -t 1 $N >/dev/null; ended $N; docker rm -f $N >/dev/null'
    check 'the disk below a volume is full' '
        mkdir /data/small/$N
        run -d --name $N -v /data/small/$N:/v bb sleep 1000 >/dev/null
        docker exec $N sh -c "$FILLS" /v 2>&1; docker exec $N sh -c "echo root >/f; cat /f"
        others_go_on
        docker exec $N rm /v/big; docker exec $N sh -c "echo again >/v/more; cat /v/more"
        docker rm -f $N >/dev/null; rm -r /data/small/$N'
    check 'no room for the state of the runtime' '
        export DOCKER_HOST=$SMALL
        run -d --name $N --network none bb sleep 1000 >/dev/null
        dd if=/dev/zero of=/run/docker-small/runtime-$R/big bs=4k 2>/dev/null
        run --rm --network none --name $N-2 bb true >/run/docker-test/full 2>&1; echo "status $?"; grep -o "no space left on device" /run/docker-test/full | head -1 | grep . || cat /run/docker-test/full
        docker rm -f $N-2 >/dev/null 2>&1
        docker inspect -f "{{.State.Running}}" $N; others_go_on
        docker stop -t 1 $N >/dev/null; ended $N; docker rm $N >/dev/null
        rm /run/docker-small/runtime-$R/big; find /run/docker-small/runtime-$R -mindepth 2
        run --rm --network none bb echo runs again'
}

greedy_guests() {
    check 'forks without end, to a limit' '
        run -d --name $N --pids-limit 100 bb sleep 1000 >/dev/null
        docker exec -d $N sh -c "$FORKS"; sleep 5
        docker inspect -f "{{.State.Running}}" $N; others_go_on
        timeout 200 docker kill $N >/dev/null; timeout 60 docker wait $N; ended $N; docker rm -f $N >/dev/null'
    # With runc the machine would be gone. The guest may well lose its own first process to that.
    holds 'forks without end' '
        run -d --name $N bb sleep 1000 >/dev/null
        docker exec -d $N sh -c "$FORKS"; sleep 10
        others_go_on
        timeout 200 docker kill $N || ended $N; timeout 60 docker wait $N
        ended $N | tee /dev/stderr | grep -qE "^exited (137|255) "
        run --rm bb echo the next one runs | grep .'
    check 'allocates without end' '
        since=$(date +%s)
        run -d --name $N -m 64m --memory-swap 64m bb sh -c "$ALLOCATES" >/dev/null
        until_true 100 sh -c "$DOCKER logs $N 2>/dev/null | grep -q child"; docker logs $N 2>/dev/null
        docker inspect -f "{{.State.Running}}" $N; docker exec $N echo alive
        told() { [ "$(docker events --since $since --until $(($(date +%s) + 1)) --filter container=$N --filter event=oom --format "{{.Status}}" | sort -u)" = oom ]; }
        until_true 30 told && echo told; others_go_on; docker rm -f $N >/dev/null'
    check 'opens files to a limit' '
        run --name $N --ulimit nofile=200:200 bb sh -c "$OPENS" 2>&1; echo "status $?"; docker rm $N >/dev/null'
    check 'opens files without end' '
        run -d --name $N --ulimit nofile=1000000:1000000 bb sh -c "$OPENS" >/dev/null; sleep 30
        docker exec $N echo alive; others_go_on
        timeout 200 docker kill $N >/dev/null; timeout 60 docker wait $N; docker rm -f $N >/dev/null'
    check 'writes logs without end' '
        run -d --name $N --log-opt max-size=1m --log-opt max-file=2 bb yes >/dev/null; sleep 20
        others_go_on
        timeout 200 docker kill $N >/dev/null; timeout 60 docker wait $N
        [ $(du -sk /data/docker/containers/$(docker inspect -f "{{.Id}}" $N) | cut -f1) -lt 4000 ] && echo the log has its limit
        docker logs --tail 1 $N; docker rm -f $N >/dev/null'
}

# Both containers write while there is no dockerd.
killed_dockerd() {
    local R
    for R in runc sandbox; do
        writes "live-$R"
    done
    kill -9 "$dockerd"
    wait "$dockerd" 2>/dev/null
    for R in runc sandbox; do
        wc -l <"/data/live-$R/lines" >"/run/docker-test/lines-$R"
    done
    sleep 5
    start_dockerd || { echo 'dockerd does not start again:'; tail -20 /run/docker-test/dockerd.log; }
    check 'dockerd is killed' '
        N=live-$R
        docker inspect -f "{{.State.Status}} {{.RestartCount}}" $N
        longer $N $(($(cat /run/docker-test/lines-$R) + 5)) && echo it went on; goes_on $N; whole $N
        docker exec $N echo exec; others_go_on
        docker stop -t 0 $N >/dev/null; timeout 60 docker wait $N; docker start $N >/dev/null && goes_on $N'
    for R in runc sandbox; do
        docker rm -f "live-$R" >/dev/null
        rm -rf "/data/live-$R"
    done
}

words=("$@")
warm_up
census >/run/docker-test/before
for R in runc sandbox; do
    run -d --name "witness-$R" bb sh -c "$TICKS" >/dev/null
done
killed_processes
if chosen 'the disk below the root is full' || chosen 'the disk below a volume is full' || chosen 'no room for the state of the runtime'; then
    if small_dockerd; then full_disks; else echo '  FAILED  full disks: there is no dockerd for them'; failed=$((failed + 1)); fi
    end_small_dockerd
fi
greedy_guests
if chosen 'dockerd is killed'; then killed_dockerd; fi
docker rm -f witness-runc witness-sandbox >/dev/null
words=()
nothing_left /run/docker-test/before
