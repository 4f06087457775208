# shellcheck shell=bash
core check 'stdin to stdout' 'echo hello | run --rm -i bb cat'
check 'end of stdin' 'printf "a\nb\n" | run --rm -i bb wc -l'
check 'no stdin' 'run --rm bb cat; echo $?'
LIMIT=600 check '20 MiB' 'head -c 20971520 /dev/zero | tr "\0" x | run --rm -i bb md5sum'
