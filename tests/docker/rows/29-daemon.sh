# shellcheck shell=bash
# shellcheck disable=SC2154 # $dockerd comes from lib.sh
# The daemon is restarted with the runtime as its default: containers go on meanwhile.
for R in runc sandbox; do
    docker run -d --runtime="$R" --name "live-$R" bb sh -c 'i=0; while :; do i=$((i+1)); echo $i; sleep 0.2; done' >/dev/null
done
python3 - <<'END'
import json
path = "/etc/docker/daemon.json"
config = json.load(open(path))
config.update({"live-restore": True, "default-runtime": "sandbox"})
json.dump(config, open(path, "w"))
END
kill -HUP "$dockerd"
sleep 2
kill "$dockerd"
wait "$dockerd"
start_dockerd
check 'containers survive the daemon' 'docker inspect -f "{{.State.Running}}" live-$R; a=$(docker logs live-$R | wc -l); sleep 3; [ $(docker logs live-$R | wc -l) -gt $a ] && echo goes on; docker exec live-$R echo exec; docker stop -t 0 live-$R >/dev/null; docker wait live-$R; docker rm live-$R >/dev/null'
check 'the default runtime' 'docker run --rm bb uname -r | grep -c .; docker info --format "{{.DefaultRuntime}}" | wc -l'
