# shellcheck shell=bash
check 'pids' 'run --rm --pids-limit 20 bb sh -c "cat /sys/fs/cgroup/pids.max; for i in \$(seq 40); do sleep 2 & done 2>&1 | grep -c fork" | sed "2s/[1-9][0-9]*/SOME/"'
check 'ulimits' 'run --rm --ulimit nofile=100:200 --ulimit core=0 bb sh -c "ulimit -n; ulimit -Hn; ulimit -c"'
check 'sysctl' 'run --rm --sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=4096 bb sh -c "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax"'
check 'oom score' 'run --rm --oom-score-adj 321 bb cat /proc/self/oom_score_adj'
check 'updates' 'run -d --name $N --pids-limit 20 -m 64m --memory-swap 64m bb sleep 1000 >/dev/null; docker update --pids-limit 40 --cpu-shares 2048 --cpuset-cpus 0 --memory 80m --memory-swap 90m --memory-reservation 40m $N >/dev/null; docker exec $N sh -c "cd /sys/fs/cgroup; cat pids.max cpu.weight cpuset.cpus memory.max memory.swap.max memory.low"; docker rm -f $N >/dev/null'
check 'block devices' 'run --rm --blkio-weight 300 bb echo runs; run --rm --device-read-bps /dev/vda:1mb --device-write-iops /dev/vda:100 bb echo runs'
