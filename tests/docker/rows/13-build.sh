# shellcheck shell=bash
# shellcheck disable=SC2016
check 'RUN in a build' 'mkdir /tmp/$N; cd /tmp/$N; echo data >file
    printf "FROM bb\nENV A=1\nWORKDIR /w\nCOPY file .\nRUN cat file && echo \$A >made && id -u\nUSER 1000\nRUN id -u >/tmp/uid\nCMD cat /w/made /tmp/uid\n" >Dockerfile
    id=$(run -d --name $N bb sleep 1); DOCKER_BUILDKIT=0 docker build -q -t img-$N . >/dev/null && run --rm img-$N; docker rmi img-$N >/dev/null; rm -r /tmp/$N; docker rm -f $N >/dev/null'
