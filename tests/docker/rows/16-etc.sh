# shellcheck shell=bash
check 'tmpfs and shm' 'run --rm --tmpfs /t:size=2m,mode=1777 --shm-size 8m bb sh -c "df -k /t /dev/shm | sed 1d | tr -s \" \" | cut -d\" \" -f2,6; stat -c %a /t"'
check 'read-only' 'run --rm --read-only --tmpfs /tmp bb sh -c "exec 2>&1; touch /x; touch /tmp/x && echo tmp; touch /etc/hosts"'
check 'hosts and resolv.conf' 'run --rm -h thehost --add-host a:1.2.3.4 --dns 9.9.9.9 --dns-search example.org --dns-option ndots:3 bb sh -c "grep -e a$ -e localhost /etc/hosts | sort; cat /etc/resolv.conf /etc/hostname"'
