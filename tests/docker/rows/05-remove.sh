# shellcheck shell=bash
census='settled() { until_true 30 sh -c "! pgrep -x containerd-shim && [ -z \"\$($DOCKER ps -aq)\$(ls /data/docker/containers)\" ]"; }; census() { cut -d" " -f5 /proc/self/mountinfo; find /sys/fs/cgroup -type d | grep -c .; ls /sys/class/net /run/docker/netns /run/docker/runtime-*/* /run/containerd/io.containerd.runtime.v2.task/moby /data/docker/containers; ps -eo args | grep -E "^sandbox|containerd-shim|^sleep 1000" | grep -v grep; }'
check 'nothing is left' "$census"'
    run --rm bb true
    settled; census >/tmp/before
    run --rm bb true; run --rm bb sh -c "exit 3"; run --rm bb nosuch 2>/dev/null
    run -d --name $N bb sleep 1000 >/dev/null; docker rm -f $N >/dev/null
    run -d --name $N -v /anonymous -p 127.0.0.1:8099:80 bb sleep 1000 >/dev/null; docker kill $N >/dev/null; docker wait $N; docker container prune -f >/dev/null; docker volume prune -f >/dev/null
    settled; census >/tmp/after; diff /tmp/before /tmp/after && echo nothing is left'
check 'a name is free again' 'for i in 1 2 3; do run --rm --name $N bb echo $i; done; docker ps -aq --filter name=$N | wc -l'
