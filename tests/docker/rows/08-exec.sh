# shellcheck shell=bash
core check 'exec' 'run -d --name $N bb sleep 1000 >/dev/null
    docker exec $N echo hi; echo x | docker exec -i $N cat; docker exec $N sh -c "exit 9"; echo $?
    docker exec -u 1000 -w /tmp -e A=b $N sh -c "id -u; pwd; echo \$A"; docker exec -d $N sh -c "echo later >/later"; until_true 20 docker exec $N test -e /later; docker exec $N cat /later
    docker exec $N nosuch; echo $?; docker exec --privileged $N sh -c "grep CapEff /proc/self/status"; docker exec $N grep CapEff /proc/self/status; docker rm -f $N >/dev/null'
check 'many at once' 'run -d --name $N bb sleep 1000 >/dev/null; for i in $(seq 10); do docker exec $N sh -c "echo $i" & done | sort -n; wait; docker rm -f $N >/dev/null'
check 'in a terminal' 'run -d --name $N bb sleep 1000 >/dev/null; script -qec "$DOCKER exec -it $N sh -c \"tty; stty size\"" /dev/null | tr -d "\r\000"; docker rm -f $N >/dev/null'
