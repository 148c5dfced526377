"""Serves the page as `ti-flax web` does, with small limits; says its address, then whoever it called.

Its argument is JSON: `folder`, and if wanted `password`, `largest_file`, `largest_upload` and `pixels`.
"""

import json
import socket
import sys
import threading
from pathlib import Path

from PIL import Image

from ti_flax.web import server
from ti_flax.web.work_folder import WorkFolder

ASSETS = Path(__file__).resolve().parents[2] / "assets"
_connect = socket.socket.connect


def noted(self, to):
    """Connects, and says to whom if that is not this machine."""
    if self.family in (socket.AF_INET, socket.AF_INET6) and to[0] not in ("127.0.0.1", "::1"):
        print(f"called {to[0]}", flush=True)
    return _connect(self, to)


def main():
    told = json.loads(sys.argv[1])
    socket.socket.connect = noted
    server.LARGEST_FILE = told.get("largest_file", server.LARGEST_FILE)
    Image.MAX_IMAGE_PIXELS = told.get("pixels", Image.MAX_IMAGE_PIXELS)
    work = WorkFolder.made(Path(told["folder"]), (), ASSETS / "demo-model", ASSETS / "demo-images")
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        port = tried.getsockname()[1]
    door = server.Door(largest_upload=told.get("largest_upload", server.LARGEST_UPLOAD))
    _, address, _ = server.launched(
        work, server.Serving("127.0.0.1", port, password=told.get("password"), door=door)
    )
    print(address.rstrip("/"), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
