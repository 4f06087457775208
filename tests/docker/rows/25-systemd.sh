# shellcheck shell=bash
need systemd
LIMIT=400 check 'boots and stops' 'run -d --name $N --privileged --stop-signal SIGRTMIN+3 systemd /sbin/init >/dev/null
    until_true 200 docker exec $N systemctl is-active multi-user.target; docker exec $N systemctl is-active multi-user.target dbus.socket
    docker exec $N sh -c "printf \"[Service]\nType=oneshot\nExecStart=/bin/sh -c \\\"echo done >/done\\\"\n\" >/etc/systemd/system/one.service; systemctl daemon-reload; systemctl start one; cat /done"
    docker stop -t 60 $N >/dev/null; docker wait $N; docker rm $N >/dev/null'
