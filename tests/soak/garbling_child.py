"""The product's child, but for SIGUSR1: then it writes garbage on its pipe."""

import os
import signal
import sys

from mlx_worker.child.__main__ import main

GARBAGE = (2).to_bytes(4, "big") + b"\xc1\xc1"

if __name__ == "__main__":
    fd = int(sys.argv[sys.argv.index("--fd") + 1])
    signal.signal(signal.SIGUSR1, lambda *_: os.write(fd, GARBAGE) and None)
    main()
