# shellcheck shell=bash
check 'what the guest has' 'run --rm --device /dev/fuse --device /dev/net/tun bb sh -c "ls /dev/fuse /dev/net/tun"'
check 'cgroup rule' 'run --rm --device-cgroup-rule "c 1:7 rwm" bb sh -c "mknod /tmp/full c 1 7 && cat /dev/null >/tmp/full; echo \$?"'
