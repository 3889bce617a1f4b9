"""Loaded by every Python process of an embedded engine at its start, as `sitecustomize`: it ends when its parent has ended.

vLLM's server runs the engine's core and helpers in processes of their own, which a kill -9 of the server would leave
behind. The death signal that the server itself has does not reach them; a look at the parent once a second does.
The engine environment has no Loradock, so this file imports nothing of it.
"""

import os
import signal
import threading
import time


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def _watch() -> None:
    threading.Thread(target=_end_with, args=(os.getppid(),), name="end-with-parent", daemon=True).start()


_watch()
os.register_at_fork(after_in_child=_watch)
