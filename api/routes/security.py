"""How the OpenAPI page tells of tokens. The check itself is `api.middleware`'s, before any endpoint."""

from typing import Final

from fastapi import Depends
from fastapi.security import HTTPBearer

OPERATOR_TOKEN: Final = Depends(
    HTTPBearer(
        scheme_name="operatorToken",
        description="A token of LORADOCK_API_TOKEN or LORADOCK_API_TOKENS.",
        auto_error=False,
    )
)
AGENT_TOKEN: Final = Depends(
    HTTPBearer(scheme_name="agentToken", description="The token of LORADOCK_AGENT_TOKEN.", auto_error=False)
)
