# shellcheck shell=bash
check 'what the guest has' 'run --rm --device /dev/fuse --device /dev/net/tun bb sh -c "ls /dev/fuse /dev/net/tun"'
check 'cgroup rule' 'run --rm --device-cgroup-rule "c 1:7 rwm" bb sh -c "mknod /tmp/full c 1 7 && cat /dev/null >/tmp/full; echo \$?"'
check 'a disk of the host' 'd=$(mktemp -d /data/disk.XXXXXX); truncate -s 8M $d/file; l=$(losetup --find --show $d/file)
    run --rm --device $l:/dev/disk bb sh -c "[ -b /dev/disk ] && echo hello | dd of=/dev/disk conv=notrunc,fsync 2>/dev/null; head -c 5 /dev/disk; wc -c </dev/disk"
    head -c 5 $l
    run --rm --device $l:/dev/disk:r bb sh -c "head -c 5 /dev/disk; (echo x >/dev/disk) 2>/dev/null || echo refused"
    losetup --detach $l; rm -r $d'
