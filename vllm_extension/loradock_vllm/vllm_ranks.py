"""The data parallel ranks behind a vLLM server: each is asked, and each one's answer counts.

vLLM's own client sends `add_lora` to all ranks but gives the first one's answer alone, and with the first failure it stops
waiting for the others. Within a rank, vLLM itself checks that its tensor and pipeline parallel workers agree.
"""

import asyncio
import logging
from typing import Any, Final

logger = logging.getLogger("vllm.loradock")

_CALL_ONE: Final = "_call_utility_async"


class Ranks:
    """The ranks that this server sends requests to.

    Args:
        engine: vLLM's engine client.
    """

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        core = getattr(engine, "engine_core", None)
        self._core = core if len(getattr(core, "core_engines", ())) > 1 else None

    @property
    def count(self) -> int:
        """How many there are now."""
        return 1 if self._core is None else len(self._core.core_engines)

    def missing(self) -> tuple[str, ...]:
        """What this version lacks for calling every rank."""
        if self._core is None or callable(getattr(self._core, _CALL_ONE, None)):
            return ()
        return (f"engine_core.{_CALL_ONE}",)

    async def call(self, method: str, *args: Any) -> list[Any]:
        """Call a method of the engine core on every rank; gives their answers, and waits for all whatever one does.

        Raises:
            Exception: what the first rank that failed has raised.
        """
        if self._core is None:
            return [await getattr(self._engine, method)(*args)]
        call_one = getattr(self._core, _CALL_ONE)
        answers = await asyncio.gather(
            *(call_one(method, *args, engine=rank) for rank in self._core.core_engines),
            return_exceptions=True,
        )
        for rank, answer in enumerate(answers):
            if isinstance(answer, BaseException):
                logger.error("%s failed on rank %d of %d: %s", method, rank, len(answers), answer)
                raise answer
        return answers
