# shellcheck shell=bash
core check 'none' 'run --rm --network none bb sh -c "ls /sys/class/net | grep -v bonding_masters; ping -c 1 127.0.0.1 >/dev/null && echo lo"'
# runc does it; sandbox says that it does not, and leaves nothing.
check 'of the host' '[ $R = runc ] || docker run --runtime=sandbox --name $N --network host bb true 2>&1 | grep -o "give it a network of its own" >/tmp/$N; if [ $R = runc ] || [ -s /tmp/$N ]; then echo as it should be; fi'
core check 'of another container' 'run -d --name $N bb sh -c "echo x >/f; httpd -f -p 90 -h /" >/dev/null; sleep 1; run --rm --network container:$N bb sh -c "wget -q -O - http://127.0.0.1:90/f; hostname | wc -c"; docker rm -f $N >/dev/null'
check 'pid of another container' 'run -d --name $N bb sleep 1234 >/dev/null; run --rm --pid container:$N bb sh -c "ps | grep -c [s]leep.1234"; docker rm -f $N >/dev/null'
