# shellcheck shell=bash
check 'pids' 'run --rm --pids-limit 20 bb sh -c "cat /sys/fs/cgroup/pids.max; for i in \$(seq 40); do sleep 2 & done 2>&1 | grep -c fork" | sed "2s/[1-9][0-9]*/SOME/"'
check 'ulimits' 'run --rm --ulimit nofile=100:200 --ulimit core=0 bb sh -c "ulimit -n; ulimit -Hn; ulimit -c"'
check 'sysctl' 'run --rm --sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=4096 bb sh -c "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax"'
check 'oom score' 'run --rm --oom-score-adj 321 bb cat /proc/self/oom_score_adj'
