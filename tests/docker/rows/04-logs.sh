# shellcheck shell=bash
core check 'logs' 'run -d --name $N bb sh -c "echo out; echo err >&2; echo more" >/dev/null; docker wait $N; docker logs $N 2>/dev/null; docker logs $N 2>&1 >/dev/null; docker rm $N >/dev/null'
check 'many lines' 'run -d --name $N bb seq 1 50000 >/dev/null; docker wait $N; docker logs $N | md5sum; docker rm $N >/dev/null'
check 'follow' 'run -d --name $N bb sh -c "for i in 1 2 3; do echo \$i; sleep 1; done" >/dev/null; docker logs -f $N; docker rm $N >/dev/null'
