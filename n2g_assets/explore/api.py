"""The description of the API: OpenAPI, made from what the pages declare, and a page that people can read."""

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from n2g_assets.explore.page import Answer, Asked, Page
from n2g_assets.reading.database import Snapshot


def openapi(pages: Iterable[Page]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the twins of pages."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "n2g_assets", "version": version("n2g_assets"),
            "description": "What the pages show, as JSON. Read-only. Floats that are not defined are null.",
        },
        "paths": {f"/api{page.path}".rstrip("/"): {"get": _operation(page)} for page in pages},
    }  # fmt: skip


def _operation(page: Page) -> dict[str, Any]:
    return {
        "summary": page.summary,
        "operationId": page.template.removesuffix(".html"),
        "parameters": [
            {
                "name": name, "in": "path" if name in page.in_path else "query", "required": name in page.in_path,
                "description": schema.pop("description", ""), "schema": schema,
            }
            for name, schema in page.asked.model_json_schema().get("properties", {}).items()
        ],
        "responses": {
            "200": {"description": page.summary, "content": {"application/json": {"schema": {"type": "object"}}}},
            **{status: _PROBLEM | {"description": meaning} for status, meaning in _PROBLEMS},
        },
    }  # fmt: skip


_PROBLEM = {
    "content": {"application/json": {"schema": {"type": "object", "properties": {"error": {"type": "string"}}}}}
}
_PROBLEMS: Sequence[tuple[str, str]] = (
    ("400", "A value in the address cannot be"),
    ("404", "Nothing is there"),
    ("503", "Nothing is published yet, or the question takes too long"),
)


def api_page(pages: Sequence[Page]) -> Page:
    """The page that lists what can be asked for as JSON."""

    def answer(database: Snapshot, asked: Asked) -> Answer:
        listed = [(path, operation["get"]) for path, operation in openapi(pages)["paths"].items()]
        return {"operations": [{"path": path, **operation} for path, operation in listed]}

    return Page("/about/api", Asked, answer, "api.html", "What can be asked for as JSON")
