# shellcheck shell=bash
# dockerd is experimental here, which it must be for checkpoints. runc makes them with CRIU, which Debian 12 does not have ("executable file not found");
# sandbox makes none, says so, and the container goes on.
holds 'checkpoint is refused clearly' 'run -d --name $N bb sh -c "i=0; while :; do i=\$((i+1)); echo \$i; sleep 0.2; done" >/dev/null
    docker checkpoint create $N one >/tmp/$N 2>&1 && status=0 || status=$?; cat /tmp/$N; [ $status -ne 0 ]
    grep -q "checkpoint is not supported: a running micro-VM cannot be saved" /tmp/$N
    [ -z "$(docker checkpoint ls $N | sed 1d)" ]
    [ "$(docker inspect -f "{{.State.Status}}" $N)" = running ]; before=$(docker logs $N | wc -l); sleep 3; [ $(docker logs $N | wc -l) -gt $before ]
    docker exec $N echo alive; docker rm -f $N >/dev/null'
# Somebody else has made it.
holds 'a start from a checkpoint is refused clearly' 'docker create --runtime=$R --name $N bb sleep 1000 >/dev/null
    made=/data/docker/containers/$(docker inspect -f "{{.Id}}" $N)/checkpoints/one; mkdir -p $made; echo "{}" >$made/config.json; echo x >$made/descriptors.json
    docker start --checkpoint one $N >/tmp/$N 2>&1 && status=0 || status=$?; cat /tmp/$N; [ $status -ne 0 ]
    grep -q "restore is not supported: a micro-VM cannot go on from a checkpoint" /tmp/$N
    [ "$(docker inspect -f "{{.State.Running}}" $N)" = false ]; docker start $N >/dev/null; docker exec $N echo alive; docker rm -f $N >/dev/null'
