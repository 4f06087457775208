# shellcheck shell=bash
check 'cpus and shares' 'run --rm --cpus 0.5 bb cat /sys/fs/cgroup/cpu.max; run --rm --cpu-shares 512 bb cat /sys/fs/cgroup/cpu.weight; run --rm --cpu-period 50000 --cpu-quota 10000 bb cat /sys/fs/cgroup/cpu.max'
check 'update' 'run -d --name $N bb sleep 1000 >/dev/null; docker update --cpus 0.3 $N >/dev/null; docker exec $N cat /sys/fs/cgroup/cpu.max; docker rm -f $N >/dev/null'
