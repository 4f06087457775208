# shellcheck shell=bash
# A soft limit below the hard one is not compared: runc 1.1.5's exec raises it.
look='id; grep -E "^(Cap|NoNewPrivs|Seccomp:)" /proc/self/status; pwd; env | grep -E "^(A|HOME|PATH)=" | sort; umask; ulimit -n; cat /proc/self/oom_score_adj; cat /sys/fs/cgroup/pids.max; readlink /proc/1/root /proc/self/root'
check 'what exec inherits' 'run -d --name $N -u 1000:1000 --group-add 2000 --cap-drop ALL --cap-add CHOWN --security-opt no-new-privileges -w /tmp -e A=b --ulimit nofile=300:300 --pids-limit 50 --oom-score-adj 200 bb sleep 1000 >/dev/null
    docker exec $N sh -c '"'$look'"'; docker exec -u 0 $N sh -c '"'$look'"'; docker exec -u user $N id; docker exec -u nobodysuch $N id; echo $?; docker exec -w /nosuch $N pwd; echo $?; docker rm -f $N >/dev/null'
check 'in the namespaces and the cgroup of the container' 'run -d --name $N -h thehost --pids-limit 40 bb sleep 1000 >/dev/null; docker exec $N hostname; docker exec $N sh -c "ps | grep -c sleep"; docker exec $N sh -c "for i in \$(seq 60); do sleep 3 & done" 2>&1 | grep -c fork | sed "s/[1-9][0-9]*/SOME/"; sleep 5
    docker exec $N sh -c "for ns in ipc mnt net pid uts; do [ \$(readlink /proc/1/ns/\$ns) = \$(readlink /proc/self/ns/\$ns) ] && echo \$ns; done"; docker rm -f $N >/dev/null'
