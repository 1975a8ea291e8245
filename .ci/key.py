"""Prints a key for what the environment is made from: the files on standard input, this Python and this folder."""

import hashlib
import os
import sys

machine = "\0".join([sys.version, sys.base_prefix, os.getcwd()])
print(hashlib.sha256(sys.stdin.buffer.read() + machine.encode()).hexdigest()[:12])
