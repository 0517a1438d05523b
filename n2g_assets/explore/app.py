"""The web application: pages, their twins in JSON, pictures, and what every answer carries.

1. A request takes the newest snapshot of the database, and reads nothing else.
2. Its values are checked by the page's model; a mistake is answered in one sentence.
3. The page's function answers with plain data, which becomes HTML or JSON.

Model text is untrusted text: Jinja escapes everything, and the policy of every page forbids scripts, styles and
pictures that do not come from here.
"""

import re
from collections.abc import Callable, Collection
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from n2g_assets.core.errors import LimitError, MissingError, N2GError, QueryError, StorageError
from n2g_assets.core.explorer import unit_address
from n2g_assets.explore import compare, layer, search, similar, studies, unit
from n2g_assets.explore.api import api_page, openapi
from n2g_assets.explore.attempt import Measure, attempt_page
from n2g_assets.explore.downloads import DOWNLOADS, Download
from n2g_assets.explore.page import Page
from n2g_assets.explore.rendering import environment
from n2g_assets.reading.database import Database, Snapshot
from n2g_assets.reading.plain import plain

PAGES: tuple[Page, ...] = (*studies.PAGES, *layer.PAGES, *unit.PAGES, *similar.PAGES, *compare.PAGES, *search.PAGES)
"""Every page, in the order in which addresses are matched."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
"""What every answer carries."""

_TEMPLATES = environment()

_STATUS: tuple[tuple[type[N2GError], int], ...] = (
    (MissingError, 404),
    (QueryError, 400),
    (LimitError, 503),
    (StorageError, 503),
)


MOST_ADDRESS = 300_000
"""Bytes of an address that is read: room for the longest text, of which a character may take twelve."""


def build_app(database: Database, measure: Measure | None = None, hosts: Collection[str] = ()) -> Starlette:
    """The application over a published database.

    Args:
        database: the published file; it may be missing, and may be replaced while the application runs.
        measure: runs the subject model on a text, where one is loaded.
        hosts: the names under which it answers, without a port; none for any. A page of somebody else whose name leads
            to this machine (DNS rebinding) would read the database otherwise.
    """
    pages = (*PAGES, attempt_page(measure))
    routes: list[Route | Mount] = [
        Mount("/static", StaticFiles(packages=[("n2g_assets.explore", "static")]), name="static"),
        Route("/api/openapi.json", lambda request: JSONResponse(openapi(pages))),
    ]
    routes += [Route(each.path, _answer(database, each.asked, partial(_file, each))) for each in DOWNLOADS]
    for page in (*pages, api_page(pages)):
        routes.append(Route(page.path, _answer(database, page.asked, partial(_html, page))))
        routes.append(Route(f"/api{page.path}".rstrip("/"), _answer(database, page.asked, partial(_json, page))))
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(_WithHeaders),
            Middleware(_Refusing, frozenset(hosts)),
            Middleware(GZipMiddleware, minimum_size=2000, compresslevel=5),
        ],
        exception_handlers={404: _not_found, 405: _not_allowed, 500: _failed},
    )


class _Refusing:
    """Answers what is asked under another name than those given, and addresses that are too long."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: ASGIApp = self.app
        if scope["type"] == "http":
            request, host = Request(scope), _host_of(scope)
            if self.hosts and host not in self.hosts:
                names = ", ".join(sorted(self.hosts))
                answer = _problem(request, 421, f"Nothing is served here as {host!r:.80}: ask for {names}.")
            elif len(scope.get("raw_path") or b"") + len(scope["query_string"]) > MOST_ADDRESS:
                answer = _problem(request, 414, f"An address has {MOST_ADDRESS:,} bytes at the most: ask for less.")
        await answer(scope, receive, send)


def _host_of(scope: Scope) -> str:
    try:
        return urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
    except ValueError:  # a bracket that is not closed
        return ""


class _WithHeaders:
    """Puts ``HEADERS`` on every answer that does not bring its own, files and refusals too."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def warm_up(database: Database) -> None:
    """Reads and compiles what the first page of a unit needs, which takes seconds; without units nothing."""
    snapshot = database.snapshot()
    found = snapshot.rows("SELECT study, layer, unit, sign FROM unit_status WHERE status = 'ok' LIMIT 1")
    for row in found:
        asked = unit.AskedUnit(study=row["study"], layer=row["layer"], unit=unit_address(row["unit"], row["sign"]))
        unit.unit_answer(snapshot, asked)
        asked.the_unit(snapshot).svg()


Answering = Callable[[Snapshot, Any, Request], Response]


def _answer(database: Database, asked: type[Any], respond: Answering) -> Callable[[Request], Response]:
    def endpoint(request: Request) -> Response:
        try:
            values = asked.model_validate({**request.query_params, **request.path_params})
            response = respond(database.snapshot(), values, request)
        except ValidationError as error:
            response = _problem(request, 400, _said(error))
        except N2GError as error:
            status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
            response = _problem(request, status, str(error))
        return response

    return endpoint


def _said(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    return f"'{where}' in the address cannot be {first['input']!r:.60}: {first['msg']}."


def _html(page: Page, snapshot: Snapshot, asked: Any, request: Request) -> Response:
    answer = page.answer(snapshot, asked)
    twin = f"/api{request.url.path}".rstrip("/") + (f"?{request.url.query}" if request.url.query else "")
    context = {"asked": asked, "snapshot": snapshot, "twin": twin, "here": request.url.path, "answer": answer}
    html = _TEMPLATES.get_template(page.template).render(answer | context)
    return HTMLResponse(html)


def _json(page: Page, snapshot: Snapshot, asked: Any, request: Request) -> Response:
    return JSONResponse(plain(page.answer(snapshot, asked)))


def _file(download: Download, snapshot: Snapshot, asked: Any, request: Request) -> Response:
    name = re.sub(r"[^\w.-]+", "_", download.name(asked))
    kept = {} if download.shown else {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(download.make(snapshot, asked), media_type=download.media_type, headers=download.headers | kept)


def _problem(request: Request, status: int, sentence: str) -> Response:
    if request.url.path.startswith("/api"):
        return JSONResponse({"error": sentence}, status)
    html = _TEMPLATES.get_template("problem.html").render(status=status, sentence=sentence, twin="", here="")
    return HTMLResponse(html, status)


def _not_found(request: Request, error: Exception) -> Response:
    return _problem(request, 404, f"There is no page at {request.url.path:.100}: begin at the list of studies.")


def _not_allowed(request: Request, error: Exception) -> Response:
    response = _problem(request, 405, f"Pages are only read: ask with GET or HEAD, not with {request.method:.20}.")
    response.headers["Allow"] = "GET, HEAD"
    return response


def _failed(request: Request, error: Exception) -> Response:
    sentence = (
        f"This page could not be made ({type(error).__name__}): the terminal of n2g explore says where it failed."
    )
    response = _problem(request, 500, sentence)
    response.headers.update(HEADERS)  # it is sent past the middleware
    return response
