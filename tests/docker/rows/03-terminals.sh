# shellcheck shell=bash
check 'a terminal' 'script -qec "$DOCKER run --rm -it --runtime=$R bb sh -c \"tty; stty size; echo done\"" /dev/null | tr -d "\r\000"'
check 'attach and detach' 'run -d -it --name $N bb sh >/dev/null; sleep 1
    (sleep 2; printf "echo one two\n"; sleep 3; printf "\020\021"; sleep 2) | timeout 60 script -qec "$DOCKER attach $N" /dev/null | tr -d "\r\000" | grep -c "one two"
    docker inspect -f "{{.State.Running}}" $N; docker rm -f $N >/dev/null'
