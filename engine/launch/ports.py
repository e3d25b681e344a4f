"""Check ports for the pages that are served on this machine."""

import socket

from engine.errors import UserError


def require_free(host: str, port: int, command: str) -> None:
    """Refuse a `host:port` that cannot be bound; `command` is the command to run with another port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OverflowError as error:
            raise UserError(f"{port} is not a port: give one from 1024 to 65535 by `{command} --port`.") from error
        except OSError as error:
            raise UserError(
                f"{host}:{port} cannot be used ({error.strerror}): stop what listens there, or run "
                f"`{command} --port {port + 1}`."
            ) from error
