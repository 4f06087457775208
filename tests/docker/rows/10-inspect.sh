# shellcheck shell=bash
check 'inspect' 'run -d --name $N bb sleep 1000 >/dev/null; docker inspect -f "{{.State.Status}} {{.State.Running}} {{.State.OOMKilled}} {{.State.ExitCode}}" $N; test -d /proc/$(docker inspect -f "{{.State.Pid}}" $N) && echo a process; docker ps --filter name=$N --format "{{.Command}} {{.Names}}"; docker rm -f $N >/dev/null'
core check 'out of memory' 'run --name $N -m 64m bb sh -c "a=x; while :; do a=\$a\$a; done" >/dev/null 2>&1; docker inspect -f "{{.State.OOMKilled}} {{.State.ExitCode}}" $N; docker rm $N >/dev/null'
