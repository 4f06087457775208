# shellcheck shell=bash
core check 'output' 'run --rm bb /bin/echo hi'
check 'exit statuses' 'for s in 0 1 7 125 126 127 255; do run --rm bb sh -c "exit $s"; echo $?; done'
core check 'killed by a signal' 'run --rm bb sh -c "kill -9 \$\$"; echo $?; run --rm bb sh -c "kill -TERM 1; sleep 1; exit 5"; echo $?'
core check 'no such program' 'run --rm bb /no/such/program; echo $?; run --rm bb nosuch; echo $?'
check 'not executable' 'run --rm bb /etc/passwd; echo $?'
core check 'stdout and stderr apart' 'run --rm bb sh -c "echo out; echo err >&2" 2>/dev/null; run --rm bb sh -c "echo out; echo err >&2" 2>&1 >/dev/null'
