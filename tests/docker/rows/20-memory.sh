# shellcheck shell=bash
check 'limit' 'run --rm -m 64m --memory-swap 64m bb sh -c "cat /sys/fs/cgroup/memory.max"; run --rm -m 64m --memory-reservation 32m bb cat /sys/fs/cgroup/memory.low'
core check 'update' 'run -d --name $N -m 64m --memory-swap 64m bb sleep 1000 >/dev/null; docker update -m 96m --memory-swap 96m $N >/dev/null; docker exec $N cat /sys/fs/cgroup/memory.max; docker rm -f $N >/dev/null'
check 'swap and reservation' 'run --rm -m 64m --memory-swap 128m --memory-reservation 32m bb sh -c "cd /sys/fs/cgroup; cat memory.max memory.swap.max memory.low"; run --rm --oom-kill-disable -m 64m bb echo runs 2>/dev/null'
