"""The chat's page on a free port, in a thread, for tests."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn

from cs336_alignment.chat.replies import ChatModel
from cs336_alignment.chat.web import make_app


@contextlib.contextmanager
def running_page(chat: ChatModel) -> Iterator[int]:
    """Serve; yields the port."""
    app = make_app(chat, hosts=frozenset({"127.0.0.1"}))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.started
        yield listener.getsockname()[1]
        server.should_exit = True
        thread.join(timeout=30)
