"""Serves the page until it is interrupted: the port, the address with its token, and the browser."""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from spiral.viewer.app import Viewer, make_app

CLOSE_SECONDS = 2
"""Time for requests under way when the server is stopped."""


def serve(
    paths: Sequence[Path],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    own_games: bool = False,
    on_start: Callable[[str], None] = lambda _address: None,
) -> None:
    """Serves the page over runs until Ctrl-C.

    Args:
        paths: The run directories.
        host: The address to listen on.
        port: The port; 0 chooses a free one.
        own_games: Whether games are imported that are neither built in nor installed.
        on_start: Called with the address of the page, token included, once it answers.

    Raises:
        ValueError: The port is taken, or this machine does not have the address.
    """
    # A damaged line is said on the page, once; the log would repeat it with every look at a growing file.
    logging.getLogger("spiral.runs.directory").setLevel(logging.ERROR)
    token = secrets.token_urlsafe(24)
    listening = _listen(host, port)
    try:
        running = threading.Event()
        running.set()
        viewer = Viewer(paths, own_games=own_games)
        app = make_app(viewer, token=token, host=host, watched=running.is_set)
        server = _Server(
            uvicorn.Config(
                app, log_level="error", access_log=False, server_header=False, timeout_graceful_shutdown=CLOSE_SECONDS
            ),
            running,
        )
        number = listening.getsockname()[1]
        server.on_start = lambda: on_start(f"http://{shown_host(host)}:{number}/?token={token}")
        server.run([listening])
    finally:
        listening.close()


class _Server(uvicorn.Server):
    """A server that says when it answers, and ends event streams before it waits for its connections."""

    on_start: Callable[[], None]

    def __init__(self, config: uvicorn.Config, running: threading.Event) -> None:
        super().__init__(config)
        self._running = running

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to answer."""
        await super().startup(sockets)
        self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the event streams and then the server."""
        self._running.clear()
        await super().shutdown(sockets)


def shown_host(host: str) -> str:
    """The host in the address that a browser opens."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return socket.gethostname()
    return f"[{host}]" if address.version == 6 else host


def open_browser(address: str) -> bool:
    """Opens a browser where there is a desktop; returns whether one was asked to."""
    desktop = sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    if not desktop or os.environ.get("SSH_CONNECTION"):
        return False
    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    return True


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises `ValueError` where that is not possible."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"cannot listen on {host}, port {port}: {reason}; choose another --port or --host") from error
    return listening
