# shellcheck shell=bash
check 'cp both ways' 'run -d --name $N bb sh -c "echo inside >/file; chmod 640 /file; chown 1000:2000 /file; sleep 1000" >/dev/null; until_true 20 docker exec $N test -s /file
    docker cp $N:/file - | tar -tv | tr -s " " | cut -d" " -f1-3; echo outside >/tmp/$N.txt; docker cp /tmp/$N.txt $N:/tmp/; docker exec $N cat /tmp/$N.txt | sed "s/$N/N/"; rm /tmp/$N.txt; docker stop -t 0 $N >/dev/null; docker cp $N:/file - | tar -xO; docker rm $N >/dev/null'
check 'diff and commit' 'run --name $N bb sh -c "echo new >/new; rm /etc/group; mkdir /d; echo x >/d/y"; docker diff $N | sort; docker commit $N img-$N >/dev/null; docker rm $N >/dev/null; run --rm img-$N sh -c "cat /new /d/y; ls /etc"; docker rmi img-$N >/dev/null'
check 'export and import' 'run --name $N bb sh -c "echo e >/exported; ln -s exported /link"; docker export $N | tar -t | grep -e exported -e link; docker rm $N >/dev/null'
