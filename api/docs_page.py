"""The page at /docs: Swagger UI from an installed package, so that it works where nothing of the internet is reached."""

from importlib.resources import files
from typing import Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, Response

DOCS_PATH: Final = "/docs"
_FILES: Final = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
}

OPEN_PATHS: Final = frozenset({DOCS_PATH, *(f"{DOCS_PATH}/{name}" for name in _FILES)})
"""The page and its parts: they hold nothing that the repository does not."""

_FOREVER: Final = {"Cache-Control": "public, max-age=86400"}


def install(app: FastAPI, title: str) -> None:
    """Serve the page and the files that it needs."""
    resources = files("fastapi_swagger.resources")

    @app.get(DOCS_PATH, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url=app.openapi_url or "/openapi.json",
            title=title,
            swagger_js_url=f"{DOCS_PATH}/swagger-ui-bundle.js",
            swagger_css_url=f"{DOCS_PATH}/swagger-ui.css",
            swagger_favicon_url=f"{DOCS_PATH}/favicon-32x32.png",
        )

    def serve(name: str, media_type: str) -> None:
        content = resources.joinpath(name).read_bytes()

        @app.get(f"{DOCS_PATH}/{name}", include_in_schema=False, name=name)
        async def resource() -> Response:
            return Response(content, media_type=media_type, headers=_FOREVER)

    for name, media_type in _FILES.items():
        serve(name, media_type)
