# shellcheck shell=bash
need web
LIMIT=300 check 'nginx' 'run -d --name $N -p 127.0.0.1:8081:80 web nginx -g "daemon off;" >/dev/null; until_true 60 busybox wget -q -O /dev/null http://127.0.0.1:8081/; busybox wget -q -O - http://127.0.0.1:8081/ | grep -i title; docker stop -t 20 $N >/dev/null; docker wait $N; docker rm $N >/dev/null'
need apps
LIMIT=300 check 'redis' 'run -d --name $N -p 127.0.0.1:6380:6379 apps redis-server --protected-mode no >/dev/null; until_true 60 docker exec $N redis-cli ping; docker exec $N redis-cli set key value; printf "GET key\r\nQUIT\r\n" | busybox nc -w 10 127.0.0.1 6380; docker exec $N redis-cli save; docker exec $N ls /dump.rdb; docker rm -f $N >/dev/null'
LIMIT=300 check 'numpy' 'run --rm apps python3 -c "import numpy as n; a = n.arange(90000.).reshape(300, 300); print(int((a @ a.T).trace()))"'
LIMIT=300 check 'gcc and make' 'run --rm apps sh -c "cd /tmp; printf \"#include <stdio.h>\nint main(void) { puts(\\\"built\\\"); }\n\" >a.c; printf \"a: a.c\n\tgcc -O2 -o a a.c\n\" >Makefile; make -s; ./a"'
need postgres
LIMIT=500 check 'postgres' 'run -d --name $N postgres sleep 1000 >/dev/null; docker exec $N install -d -o postgres /var/run/postgresql; docker exec -u postgres $N sh -c "pg_ctlcluster 15 main start; createdb d; echo \"create table t (n int); insert into t select generate_series(1, 1000); select sum(n) from t;\" | psql -q -t d"; docker exec -u postgres $N pg_ctlcluster 15 main stop; docker rm -f $N >/dev/null'
need java
LIMIT=300 check 'a JVM' 'run --rm -m 512m -v "$PWD/rows/27-Hello.java:/Hello.java:ro" java sh -c "javac -d /tmp Hello.java && java -cp /tmp Hello"'
need node
LIMIT=300 check 'node' 'run --rm node node -e "const http = require(\"http\"); const s = http.createServer((q, r) => r.end(\"served\")).listen(8080, () => http.get(\"http://127.0.0.1:8080/\", r => r.on(\"data\", d => { console.log(String(d), require(\"os\").cpus().length > 0); s.close(); })))"'
check 'a local package' 'run --rm apps sh -c "mkdir -p /p/DEBIAN /p/usr/bin; printf \"Package: hello\\nVersion: 1\\nArchitecture: all\\nMaintainer: x <x@example.org>\\nDescription: x\\n\" >/p/DEBIAN/control; printf \"#!/bin/sh\\necho installed\\n\" >/p/usr/bin/hello; chmod +x /p/usr/bin/hello; dpkg-deb -b /p /h.deb >/dev/null && dpkg -i /h.deb >/dev/null 2>&1 && hello"'
