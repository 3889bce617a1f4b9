"""What endpoints stand on, and how they reach it: all of it is handed to `create_app`, nothing is global."""

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request
from temporalio.client import Client

from api.auth import Principal, TokenBook
from api.fields import AdapterField
from loradock.core.errors import LoradockError
from loradock.core.settings import Settings
from loradock.core.uploads import UploadPlace
from loradock.registry.database import Database
from loradock.registry.notifications import OperationFeed


@dataclass(frozen=True, slots=True)
class ApiDependencies:
    """The parts that the API works with. Whoever makes them closes them.

    Attributes:
        feed: tells of changes of operations.
        temporal: connects when it is first used, so that the API serves reads without Temporal.
        uploads: where uploads go; None when the service takes none.
        stopping: set when the server is about to stop: calls that wait end then.
    """

    database: Database
    feed: OperationFeed
    temporal: Client
    tokens: TokenBook
    settings: Settings
    uploads: UploadPlace | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


# Both are coroutines although they wait for nothing: FastAPI runs a plain function in a thread, once for every request.
async def _dependencies(request: Request) -> ApiDependencies:
    parts: ApiDependencies = request.app.state.dependencies
    return parts


async def _actor(request: Request) -> str:
    principal: Principal | None = request.state.principal
    if principal is None:
        raise LoradockError("unauthorized", "the call has no bearer token")
    return principal.actor


Parts = Annotated[ApiDependencies, Depends(_dependencies)]
Actor = Annotated[str, Depends(_actor)]

AdapterPath = Annotated[
    AdapterField, Path(description="Adapter, with its `org/` if it has one.", examples=["greeter"])
]
Limit = Annotated[int, Query(ge=1, le=500, description="Items in one page.")]
Cursor = Annotated[
    str | None, Query(max_length=1000, description="`next` of the page before; left out for the first page.")
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        pattern=r"^[\x21-\x7e]{1,255}$",
        description="1 to 255 visible ASCII characters. The same key with the same request gives the same operation, "
        "however often and however late it is sent and whatever an alias or the only pool is by then; with another request "
        "it is `idempotency_key_reused`.",
        examples=["5f0c6f0e-deploy-42"],
    ),
]
