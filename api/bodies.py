"""Operations as callers see them, and the responses that carry one."""

from urllib.parse import quote

from fastapi import Response
from fastapi.responses import JSONResponse

from api.schemas import OperationBody
from api.waiting import Wait
from loradock.core.settings import Settings
from loradock.registry.views import OperationView, Page


def operation_body(operation: OperationView, settings: Settings) -> OperationBody:
    """An operation with its link into Temporal's UI."""
    return OperationBody(**dict(operation), temporal_url=temporal_url(operation, settings))


def operation_page(page: Page[OperationView], settings: Settings) -> Page[OperationBody]:
    """A page of operations with their links."""
    return Page(items=tuple(operation_body(item, settings) for item in page.items), next=page.next)


def temporal_url(operation: OperationView, settings: Settings) -> str | None:
    """Where Temporal's UI shows the operation's workflow; None when the UI's address is not set."""
    if settings.temporal_ui_url is None:
        return None
    namespace = quote(settings.temporal_namespace, safe="")
    link = (
        f"{settings.temporal_ui_url}/namespaces/{namespace}/workflows/{quote(operation.workflow_id, safe='')}"
    )
    return f"{link}/{quote(operation.run_id, safe='')}/history" if operation.run_id else link


def operation_response(operation: OperationView, settings: Settings, wait: Wait) -> Response:
    """202 while the operation is active and 200 when it has ended, whatever its end; `Location` is where it is read."""
    headers = {"Location": f"/v1/operations/{operation.id}", "Cache-Control": "no-store"}
    if wait.preferred:
        headers["Preference-Applied"] = wait.applied
    return JSONResponse(
        operation_body(operation, settings).model_dump(mode="json"),
        status_code=202 if operation.state.active else 200,
        headers=headers,
    )
