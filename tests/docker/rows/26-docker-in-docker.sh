# shellcheck shell=bash
need dind
LIMIT=600 check 'a container in a container' 'run -d --name $N --privileged -v /var/lib/docker dind sh -c "mount -t tmpfs x /run; dockerd >/dockerd.log 2>&1" >/dev/null; until_true 200 docker exec $N docker version
    docker cp "$SANDBOX_CACHE/docker/bb.tar" $N:/bb.tar; docker exec $N docker import /bb.tar bb >/dev/null; docker exec $N docker run --rm bb echo inner; docker exec $N docker info --format "{{.Driver}}"; docker rm -f -v $N >/dev/null'
