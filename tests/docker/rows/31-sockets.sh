# shellcheck shell=bash
need apps dind
cat >/run/docker-test/echo.py <<'END'
import os, socket, sys, threading
listener = socket.socket(socket.AF_UNIX)
os.umask(0o777 & ~int(sys.argv[2], 8))
listener.bind(sys.argv[1])
listener.listen(64)
def serve(connection):
    while chunk := connection.recv(65536):
        connection.sendall(chunk)
    connection.close()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
END
export CLIENT='
import socket, sys, threading
def ask(data):
    s = socket.socket(socket.AF_UNIX)
    s.connect("/s.sock")
    def send():
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
    sending = threading.Thread(target=send)
    sending.start()
    got = b""
    while chunk := s.recv(65536):
        got += chunk
    sending.join()
    return got
try:
    print(ask(b"hello").decode(), len(ask(b"x" * 2000000)))
except OSError as error:
    print(type(error).__name__)
'
# serve PATH MODE: gives back what is sent, until the check's end.
serve() {
    python3 /run/docker-test/echo.py "$1" "$2" >/dev/null 2>&1 &
    # shellcheck disable=SC2064 # as they are now
    trap "kill $!; rm -f '$1'" EXIT
    disown
    until_true 60 test -S "$1"
}
export -f serve
check 'a socket of the host' 'serve /run/docker-test/$N.sock 666; run --rm -v /run/docker-test/$N.sock:/s.sock apps python3 -c "$CLIENT"; run --rm -v /run/docker-test/$N.sock:/s.sock:ro -u 1000 apps python3 -c "$CLIENT"'
check 'its mode counts' 'serve /run/docker-test/$N.sock 600; run --rm -v /run/docker-test/$N.sock:/s.sock apps ls -ln /s.sock | cut -d" " -f1,3,4; run --rm -v /run/docker-test/$N.sock:/s.sock -u 1000 apps python3 -c "$CLIENT"'
LIMIT=300 check 'the socket of docker itself' 'run --name $N -v /var/run/docker.sock:/var/run/docker.sock dind sh -c "docker version --format {{.Server.Version}}; docker ps --filter name=$N --format {{.Status}} | cut -d\" \" -f1; docker run --rm bb echo sibling; echo in | docker run --rm -i bb cat"; docker rm $N >/dev/null'
