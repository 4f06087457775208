# shellcheck shell=bash
check 'cpus and shares' 'run --rm --cpus 0.5 bb cat /sys/fs/cgroup/cpu.max; run --rm --cpu-shares 512 bb cat /sys/fs/cgroup/cpu.weight; run --rm --cpu-period 50000 --cpu-quota 10000 bb cat /sys/fs/cgroup/cpu.max'
check 'update' 'run -d --name $N bb sleep 1000 >/dev/null; docker update --cpus 0.3 $N >/dev/null; docker exec $N cat /sys/fs/cgroup/cpu.max; docker rm -f $N >/dev/null'
check 'the limit holds' 'run --rm --cpus 0.4 bb sh -c "u() { sed -n \"s/usage_usec //p\" /sys/fs/cgroup/cpu.stat; }; t() { cut -d\" \" -f1 /proc/uptime; }; a=\$(t) b=\$(u); timeout 10 sh -c \"while :; do :; done\"; echo \$(t) \$a \$(u) \$b" | awk "{ share = (\$3 - \$4) / (\$1 - \$2) / 1e6; print (share > 0.3 && share < 0.42) ? \"kept\" : share }"'
check 'cpusets' 'run --rm --cpuset-cpus 0 --cpuset-mems 0 bb sh -c "cat /sys/fs/cgroup/cpuset.cpus /sys/fs/cgroup/cpuset.mems; grep Cpus_allowed_list /proc/self/status; nproc"'
