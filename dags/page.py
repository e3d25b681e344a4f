"""`dagster dev` with a web page that answers only requests from its own pages.

    python -m dags.page -m dags.definitions -h 127.0.0.1 -p 3000 …

Dagster's page accepts any Host, so a web site could reach it through a user's browser, by a name of its own that leads
to 127.0.0.1 (DNS rebinding), and it accepts mutations from any site's script, image or form. Here the name must be a
loopback one, and requests from other sites are refused.
"""

import sys
from urllib.parse import urlsplit

from dagster_webserver.webserver import DagsterWebserver
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from dags import internals
from engine.errors import UserError

NAMES = ("127.0.0.1", "localhost")
"""The names of this machine that the page answers to; it listens on the first."""
WEBSERVER = "--webserver"
"""The first argument of the page's own process; without it the process starts page and daemon."""


class OwnPagesOnly:
    """ASGI middleware that refuses requests from other sites' pages, except for following a link to this page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403, or pass the request on."""
        if scope["type"] in ("http", "websocket") and self._is_foreign(Headers(scope=scope)):
            await PlainTextResponse("Requests from other sites are refused", 403)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    @staticmethod
    def _is_foreign(headers: Headers) -> bool:
        if origin := headers.get("origin"):
            return urlsplit(origin).hostname not in NAMES
        return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate"


class GuardedWebserver(DagsterWebserver):
    """Dagster's web application behind the two checks."""

    def build_middleware(self) -> list[Middleware]:
        """Return the checks, then what Dagster itself puts before its routes."""
        names = Middleware(TrustedHostMiddleware, allowed_hosts=list(NAMES), www_redirect=False)
        return [names, Middleware(OwnPagesOnly), *super().build_middleware()]


def main() -> None:
    """Run the page, or start page and daemon, as the first argument says."""
    try:
        if sys.argv[1:2] == [WEBSERVER]:
            del sys.argv[1]
            internals.serve_page(GuardedWebserver)
        else:
            internals.start_page_and_daemon([sys.executable, "-m", "dags.page", WEBSERVER])
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
