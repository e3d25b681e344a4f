"""Two ranks for the test of torchrun: the second one dies by a signal while the first one waits."""

import os
import signal
import time

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
