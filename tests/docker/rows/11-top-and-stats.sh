# shellcheck shell=bash
check 'top' 'run -d --name $N bb sleep 1000 >/dev/null; docker top $N | sed 1d | grep -c "sleep 1000"; docker rm -f $N >/dev/null'
check 'stats' 'run -d --name $N -m 128m bb sleep 1000 >/dev/null; docker stats --no-stream --format "{{.MemUsage}} {{.PIDs}}" $N | grep -o "/ 128MiB.*"; docker rm -f $N >/dev/null'
