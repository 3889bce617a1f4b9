"""The page at /docs stands by itself: everything that it names is served here."""

import re

import httpx
import pytest
from fastapi import FastAPI


def anonymous_client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


PART = re.compile(r'(?:src|href)="([^"]+)"')


async def test_the_page_needs_nothing_from_elsewhere(app: FastAPI) -> None:
    async with anonymous_client(app) as anonymous:
        page = await anonymous.get("/docs")
        assert page.status_code == httpx.codes.OK
        parts = PART.findall(page.text)
        assert len(parts) >= 3
        for part in parts:
            assert part.startswith("/docs/"), f"{part} is fetched from elsewhere"
            found = await anonymous.get(part)
            assert found.status_code == httpx.codes.OK
            assert len(found.content) > 100


@pytest.mark.parametrize("path", ["/docs/nothing", "/docs/../openapi", "/docs/swagger-ui-bundle.js.map"])
async def test_nothing_else_below_the_page_is_open(app: FastAPI, path: str) -> None:
    async with anonymous_client(app) as anonymous:
        assert (await anonymous.get(path)).status_code == httpx.codes.UNAUTHORIZED
