"""Prints what inotify says of a directory: the kind of each event, and the name."""
import ctypes
import os
import struct
import sys

KINDS = {0x2: "modify", 0x8: "close_write", 0x40: "from", 0x80: "to", 0x100: "create", 0x200: "delete"}
libc = ctypes.CDLL(None)
inotify = libc.inotify_init()
libc.inotify_add_watch(inotify, sys.argv[1].encode(), sum(KINDS))
while True:
    data = os.read(inotify, 65536)
    while data:
        _, mask, _, length = struct.unpack_from("iIII", data)
        name = data[16:16 + length].rstrip(b"\0").decode()
        data = data[16 + length:]
        for bit, kind in KINDS.items():
            if mask & bit:
                print(kind, name, flush=True)
