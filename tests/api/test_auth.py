"""Who is let in where."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import SecretStr

from api.app import create_app
from api.auth import OPEN_PATHS, Principal, Role, TokenBook
from api.dependencies import ApiDependencies
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from tests.api.conftest import AGENT_TOKEN, ALICE_TOKEN, OPERATOR_TOKEN, assert_problem, client_of
from tests.api.world import World, engine_report, renewal_of

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


def hashed(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture
def agents_file(tmp_path: Path) -> Path:
    """`a0` has two tokens, the others of the tests share one."""
    file = tmp_path / "agents"
    file.write_text(f"# ours\n\na0 {hashed('old')}\na0 {hashed('new')}  # from June on\nb0 {hashed('b')}\n")
    return file


async def test_an_agents_own_token_is_good_for_no_other_and_no_other_is_good_for_it(
    parts: ApiDependencies, agents_file: Path
) -> None:
    settings = parts.settings.model_copy(update={"agent_tokens_file": agents_file, "agent_loras": True})
    app = create_app(replace(parts, settings=settings, tokens=TokenBook.from_settings(settings)))
    allowed = [("old", "a0"), ("new", "a0"), ("b", "b0"), (AGENT_TOKEN, "c0")]
    for token in ("old", "new", "b", AGENT_TOKEN):
        async with client_of(app, token) as client:
            for agent in ("a0", "b0", "c0"):
                response = await client.get(f"/v1/agents/{agent}/loras")
                if (token, agent) in allowed:
                    assert response.status_code == 200, (token, agent)
                else:
                    assert_problem(response, 403, "forbidden")
            assert_problem(await client.get("/v1/agents/a0%2f..%2fb0/loras"), *NOT_FOR[token])
            assert_problem(await client.get("/v1/adapters"), 403, "forbidden")


NOT_FOR = {
    "old": (404, "not_found"), "new": (404, "not_found"), "b": (403, "forbidden"), AGENT_TOKEN: (403, "forbidden"),
}  # fmt: skip
"""What a path is that begins with another agent's and does not lead to one."""


async def test_an_agent_with_a_token_of_its_own_keeps_its_lease_from_others(
    parts: ApiDependencies, agents_file: Path
) -> None:
    settings = parts.settings.model_copy(update={"agent_tokens_file": agents_file})
    app = create_app(replace(parts, tokens=TokenBook.from_settings(settings)))
    renewal = renewal_of("a0", engine_report("e0")).model_dump(mode="json")
    async with client_of(app, "new") as agent, client_of(app, "b") as other:
        assert (await agent.put("/v1/agents/a0/lease", json=renewal)).json()["superseded"] is False
        fresh = {**renewal, "instance": "an-impostor"}
        assert_problem(await other.put("/v1/agents/a0/lease", json=fresh), 403, "forbidden")
        assert_problem(await other.put("/v1/agents/b0/lease", json=fresh), 422, "invalid_request")
        assert (await agent.put("/v1/agents/a0/lease", json=renewal)).json()["superseded"] is False


@pytest.mark.parametrize(
    "content",
    [
        "a0",
        f"a0 {'0' * 63}",
        f"a0 {'0' * 64} more",
        f"a/0 {'0' * 64}",
        f"a0 {'G' * 64}",
        "\xff",
        f"a0 {'0' * 64}\nb0 {'0' * 64}",
    ],
)
def test_a_file_of_tokens_that_cannot_be_meant_is_refused_at_start(tmp_path: Path, content: str) -> None:
    file = tmp_path / "agents"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(LoradockError) as caught:
        TokenBook.from_settings(settings(api_token="x", agent_tokens_file=file))
    assert caught.value.code == "setting_invalid"
    assert "0" * 60 not in caught.value.message
    with pytest.raises(LoradockError, match="LORADOCK_AGENT_TOKENS_FILE"):
        TokenBook.from_settings(settings(api_token="x", agent_tokens_file=tmp_path / "none"))


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
