"""Who is let in where."""

import re
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from api.auth import OPEN_PATHS, Principal, Role, TokenBook
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from tests.api.conftest import AGENT_TOKEN, ALICE_TOKEN, OPERATOR_TOKEN, assert_problem, client_of
from tests.api.world import World

VALUES = {
    "name": "org/greeter",
    "alias": "stable",
    "version": "1",
    "operation": "op-1",
    "engine": "e0",
    "agent": "a0",
    "upload": "up-" + "0" * 32,
    "index": "0",
}


def calls(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every method and path that the application has, with values filled in."""
    for route in iter_route_contexts(app.routes):
        assert route.path is not None
        path = re.sub(r"{(\w+)(?::path)?}", lambda match: VALUES[match[1]], route.path)
        for method in sorted(route.methods or {"GET"}):
            yield method, path


async def test_every_route_but_the_open_ones_needs_a_token(app: FastAPI) -> None:
    seen = list(calls(app))
    assert len(seen) > 20
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://api.test"
    ) as nobody:
        for method, path in seen:
            response = await nobody.request(method, path)
            if path in OPEN_PATHS:
                assert response.status_code in {200, 405}, (method, path)
                continue
            assert_problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Bearer")


async def test_agents_and_operators_cannot_do_each_others_calls(app: FastAPI) -> None:
    async with client_of(app, AGENT_TOKEN) as agent, client_of(app, OPERATOR_TOKEN) as operator:
        for method, path in calls(app):
            if path in OPEN_PATHS:
                continue
            stranger = operator if path.startswith("/v1/agents/") else agent
            assert_problem(await stranger.request(method, path), 403, "forbidden")


async def test_the_open_paths_are_the_ones_that_are_meant() -> None:
    page = {"/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/docs/favicon-32x32.png"}
    assert {"/healthz", "/readyz", "/openapi.json"} | page == OPEN_PATHS


@pytest.mark.parametrize(
    "path", ["/v1/nothing", "/metrics", "/docs/oauth2-redirect", "/healthz/", "//healthz", "/"]
)
async def test_a_path_that_does_not_exist_needs_a_token_too(app: FastAPI, path: str) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://api.test"
    ) as nobody:
        assert_problem(await nobody.get(path), 401, "unauthorized")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {OPERATOR_TOKEN}",
        OPERATOR_TOKEN,
        f"Bearer {OPERATOR_TOKEN}x",
        f"Bearer {OPERATOR_TOKEN[:-1]}",
        f"Bearer {OPERATOR_TOKEN} {OPERATOR_TOKEN}",
        f"Bearer {OPERATOR_TOKEN.upper()}",
        "Bearer \xff\xfe",
    ],
)
async def test_a_wrong_authorization_is_refused(app: FastAPI, header: str) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://api.test"
    ) as client:
        response = await client.get("/v1/adapters", headers=[("Authorization", header.encode("latin-1"))])
    assert_problem(response, 401, "unauthorized")
    assert OPERATOR_TOKEN not in response.text


async def test_two_authorization_headers_are_refused(app: FastAPI) -> None:
    both = [("Authorization", "Bearer wrong"), ("Authorization", f"Bearer {OPERATOR_TOKEN}")]
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://api.test"
    ) as client:
        assert_problem(await client.get("/v1/adapters", headers=both), 401, "unauthorized")


async def test_the_scheme_is_read_in_any_case(app: FastAPI) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://api.test"
    ) as client:
        response = await client.get("/v1/adapters", headers={"Authorization": f"bearer {OPERATOR_TOKEN}"})
    assert response.status_code == 200


async def test_each_token_acts_under_its_own_name(app: FastAPI, world: World) -> None:
    await world.engines("e0")
    for number, (token, actor) in enumerate({OPERATOR_TOKEN: "operator", ALICE_TOKEN: "alice"}.items()):
        async with client_of(app, token) as client:
            response = await client.post(
                f"/v1/adapters/greeter-{number}/versions", json={"source": {"uri": "file:///srv/a"}}
            )
        assert response.status_code == 202, response.text
        assert response.json()["requested_by"] == actor


async def test_nobody_is_let_in_before_the_body_is_looked_at(app: FastAPI) -> None:
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app), base_url="http://api.test"
    ) as nobody:
        assert_problem(await nobody.post("/v1/adapters/a/load", content=b"{not json"), 401, "unauthorized")


def settings(**values: object) -> Settings:
    return Settings(_env_file=None, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"agent_token": "x"},
        {"api_token": ""},
        {"api_token": "   "},
        {"api_tokens": {"alice": ""}},
        {"api_tokens": {"": "x"}},
        {"api_tokens": {"agent": "x"}},
        {"api_tokens": {"loradock": "x"}},
        {"api_tokens": {"a\nb": "x"}},
        {"api_token": "same", "agent_token": "same"},
        {"api_token": "same", "api_tokens": {"alice": "same"}},
    ],
)
def test_tokens_that_let_anyone_in_or_confuse_actors_are_refused_at_start(values: dict[str, object]) -> None:
    with pytest.raises(LoradockError) as caught:
        TokenBook.from_settings(settings(**values))
    assert caught.value.code == "setting_invalid"
    assert "same" not in caught.value.message


def test_a_token_book_does_not_keep_tokens() -> None:
    book = TokenBook.from_settings(settings(api_token=SecretStr("hush-hush")))
    assert book.find(b"hush-hush") == Principal("operator", Role.OPERATOR)
    assert book.find(b"hush") is None
    assert "hush-hush" not in repr(vars(book))
