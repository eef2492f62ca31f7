"""The process of a server: its socket, its signals, and its end."""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from jaxfc.command import InputError


def read_key(variable: str | None) -> str | None:
    """The API key in an environment variable; None where no variable is named.

    Raises:
        InputError: it is empty, or could not stand in a header.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InputError(f"limits.api_key_variable: ${variable} should hold a key of ASCII characters without spaces.")
    return key


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections.

    Raises:
        InputError: the address is not to be had.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InputError(f"cannot listen on {host}, port {port}: {error.strerror or error}; give another.") from error


def run(app: FastAPI, listener: socket.socket, *, grace_seconds: int, access_log: bool):
    """Serve until SIGTERM or SIGINT.

    Then no connection is taken any more, requests under way have `grace_seconds` to finish, and what is left is cut.
    """
    config = uvicorn.Config(
        app,
        lifespan="off",
        log_config=None,
        access_log=access_log,
        server_header=False,
        timeout_graceful_shutdown=grace_seconds,
    )
    # uvicorn raises the signal again when it is done: that is the good end of a server.
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def in_thread(app: ASGIApp) -> Iterator[str]:
    """Serve in a thread of this process, on a free port of this machine; gives the URL, to which `/v1` is added."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
