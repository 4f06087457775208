# shellcheck shell=bash
check 'capabilities' 'run --rm bb grep Cap /proc/self/status; run --rm --cap-drop ALL --cap-add NET_RAW bb grep CapEff /proc/self/status; run --rm --cap-add SYS_ADMIN bb grep CapEff /proc/self/status'
check 'seccomp' 'run --rm bb sh -c "grep Seccomp: /proc/self/status; unshare -U true; echo \$?"; run --rm --security-opt seccomp=unconfined bb grep Seccomp: /proc/self/status'
check 'no-new-privileges' 'run --rm --security-opt no-new-privileges bb grep NoNewPrivs /proc/self/status'
check 'privileged' 'run --rm --privileged bb sh -c "mount -t tmpfs x /mnt 2>/dev/null || mkdir /mnt && mount -t tmpfs x /mnt && echo mounted; test -c /dev/null && echo null; ls /dev/fuse /dev/net/tun"'
