# shellcheck shell=bash
check 'environment' 'run --rm -e A=b -e "C=d e" -h host1 bb sh -c "env | grep -v -e HOSTNAME -e SHLVL | sort; hostname"'
check 'users' 'run --rm -u 1000 bb id; run --rm -u user:extra bb id; run --rm -u 5:6 --group-add 77 bb id; run --rm -u nosuch bb id; echo $?'
check 'work directory and entry point' 'run --rm -w /new/dir bb pwd; run --rm --entrypoint /bin/echo bb a b; run --rm --entrypoint "" bb echo c'
check 'init' 'run --rm --init bb sh -c "ps -o comm | head -3"'
check 'stop signal' 'run -d --stop-signal USR1 --name $N bb sh -c "trap \"echo got; exit\" USR1; echo up; while :; do sleep 0.2; done" >/dev/null; until_true 60 sh -c "$DOCKER logs $N | grep -q up"; docker stop -t 20 $N >/dev/null; docker logs $N; docker rm $N >/dev/null'
