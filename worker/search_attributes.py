"""Registers our search attributes with Temporal; without them a workflow cannot start."""

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from loradock.core.errors import LoradockError
from workflows.search_attributes import ALL


async def missing(client: Client) -> list[str]:
    """The names of our attributes that the namespace does not have; all of them where it cannot be asked."""
    try:
        answer = await client.operator_service.list_search_attributes(
            ListSearchAttributesRequest(namespace=client.namespace)
        )
    except RPCError as error:
        if error.status is RPCStatusCode.UNIMPLEMENTED:  # the time-skipping server
            return [key.name for key in ALL]
        raise
    return [key.name for key in ALL if key.name not in answer.custom_attributes]


async def register(client: Client) -> list[str]:
    """Add those that are missing.

    Returns:
        The names that were added.

    Raises:
        LoradockError: `temporal_unavailable`, also when the server does not let this client add them.
    """
    try:
        names = await missing(client)
        if names:
            wanted = {
                key.name: IndexedValueType.ValueType(key.indexed_value_type)
                for key in ALL
                if key.name in names
            }
            await client.operator_service.add_search_attributes(
                AddSearchAttributesRequest(namespace=client.namespace, search_attributes=wanted)
            )
    except RPCError as error:
        if error.status is RPCStatusCode.ALREADY_EXISTS:
            return []
        raise LoradockError(
            "temporal_unavailable",
            f"the search attributes could not be registered ({error.status.name}): run 'loradock temporal-setup' "
            "with rights to the namespace",
        ) from None
    return names
