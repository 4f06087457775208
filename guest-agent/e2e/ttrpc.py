"""The host's side of agent.proto, as far as the tests need it: ttrpc frames and protobuf fields by hand."""

import itertools
import socket
import struct
import threading

TOKENS = itertools.count(100)


def varint(n):
    out = b""
    while n > 0x7F:
        out += bytes([n & 0x7F | 0x80])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    """One field: bytes and str are length-delimited, integers varints; zero values are absent, as in proto3."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value if value else b""
    return varint(number << 3) + varint(int(value)) if value else b""


def parse(data, repeated=()):
    """Field number → value; → list of messages for the repeated ones."""
    fields, at = {n: [] for n in repeated}, 0

    def number():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 2:
            size = number()
            value = data[at:at + size]
            at += size
            if key >> 3 in repeated:
                fields[key >> 3].append(parse(value))
            else:
                fields[key >> 3] = value
        else:
            fields[key >> 3] = number()
    return fields


class RpcError(Exception):
    def __init__(self, code, message):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Agent:
    """One connection; calls may be made from several threads."""

    def __init__(self, cid):
        self.cid = cid
        self.socket = socket.socket(socket.AF_VSOCK)
        self.socket.connect((cid, 1024))
        self.streams = itertools.count(1, 2)
        self.lock, self.waiting = threading.Lock(), {}
        threading.Thread(target=self.read, daemon=True).start()

    def exactly(self, size):
        data = b""
        while len(data) < size:
            part = self.socket.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def read(self):
        try:
            while True:
                size, stream, _kind, _flags = struct.unpack(">IIBB", self.exactly(10))
                payload = self.exactly(size)
                event, box = self.waiting.pop(stream)
                box.append(payload)
                event.set()
        except (EOFError, OSError):
            for event, _ in self.waiting.values():
                event.set()

    def call_raw(self, method, *fields):
        """A call whose response has a repeated first field."""
        return self.call(method, *fields, repeated=(1,))

    def call(self, method, *fields, timeout=120, repeated=()):
        request = field(1, "sandbox.agent.v1.Agent") + field(2, method) + field(3, b"".join(fields))
        event, box = threading.Event(), []
        with self.lock:
            stream = next(self.streams)
            self.waiting[stream] = (event, box)
            self.socket.sendall(struct.pack(">IIBB", len(request), stream, 1, 0) + request)
        if not event.wait(timeout):
            raise TimeoutError(method)
        if not box:
            raise EOFError(method)
        response = parse(box[0])
        status = parse(response.get(1, b""))
        if status.get(1):
            raise RpcError(status[1], status.get(2, b"").decode())
        return parse(response.get(2, b""), repeated)

    def stream(self):
        """A stdio stream and its token."""
        token = next(TOKENS)
        connection = socket.socket(socket.AF_VSOCK)
        connection.connect((self.cid, 1025))
        connection.sendall(struct.pack("<Q", token))
        return connection, token
