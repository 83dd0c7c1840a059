"""The real decode server with one more decoder, whose files say how it fails; tests run it as a module."""

import ctypes
import os
import resource  # noqa: F401  # for the files that try things
import socket
import sys
import time

import numpy as np

from marigold_demo.io import decode_server
from marigold_demo.io.photo import Photo


def misbehave(file, *, name):
    """Do what the file says: the body of a decoder that was taken over."""
    what, _, rest = file.read().decode().partition(" ")
    if what == "crash":
        ctypes.string_at(0)
    if what == "exit":
        os._exit(0)
    if what == "sleep":
        time.sleep(float(rest))
    if what == "spin":
        ends_s = time.process_time() + float(rest or 60)
        while time.process_time() < ends_s:
            pass
    if what == "grow":
        bytearray(700_000_000)
    if what == "bug":
        raise KeyError("a secret of the file")
    if what == "try":
        exec(rest)
    if what == "send":
        return eval(rest)
    return Photo(np.full((16, 16, 3), 7, np.uint8))


decode_server.DECODERS["photo"] = misbehave

if __name__ == "__main__":
    decode_server.main(socket.socket(fileno=int(sys.argv[1])))
