# shellcheck shell=bash
need web postgres
mkdir -p /tmp/compose
cat >/tmp/compose/docker-compose.yml <<'END'
version: "2.4"
services:
  db:
    image: postgres
    runtime: ${R}
    command: sh -c "install -d -o postgres /var/run/postgresql; pg_ctlcluster 15 main start; echo started; exec sleep 100000"
    init: true
    volumes: ["data:/var/lib/postgresql"]
    healthcheck: { test: ["CMD", "pg_isready", "-q"], interval: 5s, timeout: 30s, retries: 30 }
  web:
    image: web
    runtime: ${R}
    command: nginx -g "daemon off;"
    ports: ["80"]
    networks: { default: { aliases: [front] } }
    depends_on: { db: { condition: service_healthy } }
volumes: { data: {} }
END
LIMIT=600 check 'up, exec, scale, logs, down' 'cd /tmp/compose; exec 2>&1; c() { docker-compose --no-ansi -p "$N" "$@"; }
    c up -d >/tmp/compose/up.log || cat /tmp/compose/up.log; c ps -q | wc -l
    docker inspect -f "{{.State.Health.Status}}" "$(c ps -q db)"; busybox wget -q -O - "http://$(c port web 80 | sed s/0.0.0.0/127.0.0.1/)/" | grep -i title
    c exec -T db getent hosts front | wc -l; c exec -T -u postgres db psql -qtc "create table t (n int); insert into t values (42); select n from t"
    c up -d --scale web=2 >/dev/null 2>&1; c ps -q web | wc -l; c logs --no-color db | grep -c started
    c restart -t 1 db >/dev/null 2>&1; until_true 100 sh -c "[ \"\$($DOCKER inspect -f {{.State.Health.Status}} $(c ps -q db))\" = healthy ]"; c exec -T -u postgres db psql -qtc "select n from t"
    c down -v -t 5 >/dev/null 2>&1; docker ps -aq --filter "name=$N" | wc -l; docker volume ls -q | grep -c "$N"; docker network ls -q --filter "name=$N" | wc -l'
