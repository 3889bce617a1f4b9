"""What is resident in the engine: adding, removing, and never believing either without asking every rank of the engine."""

import asyncio
import logging
from typing import Final

from loradock_vllm.binding import EngineBinding
from loradock_vllm.classify import classify, unwrap
from loradock_vllm.commands import LoadCommand
from loradock_vllm.errors import ExtensionError
from loradock_vllm.ledger import NOTHING_RESIDENT, Resident
from loradock_vllm.record import Record

REMOVE_ATTEMPTS: Final = 5
REMOVE_PAUSE_SECONDS: Final = 0.1

logger = logging.getLogger("vllm.loradock")


class Residency:
    """The adapters in the engine itself. What changes them runs under the engine's lock, one at a time.

    Args:
        binding: the engine.
        record: where ids are noted that could not be cleaned up.
    """

    def __init__(self, binding: EngineBinding, record: Record) -> None:
        self._binding = binding
        self._record = record

    async def add(self, command: LoadCommand) -> None:
        """Load an adapter, and see that the engine has it.

        Raises:
            ExtensionError: what the engine's words mean; `details.cleaned` tells whether nothing of it is left.
        """
        before = await self.list_ids()
        try:
            accepted = await self._binding.add(command.served_name, command.int_id, command.path)
            after = await self._ask()
        except Exception as error:
            clean = await self._clean_up(command)
            text = str(error) or type(error).__name__
            raise ExtensionError(classify(text), unwrap(text), cleaned=clean) from error
        if not accepted or command.int_id not in after.everywhere:
            clean = await self._clean_up(command)
            raise ExtensionError("engine_error", "the engine did not take the adapter", cleaned=clean)
        if evicted := before.everywhere - after.everywhere:
            logger.error("the engine evicted the adapters with int ids %s", sorted(evicted))

    async def _clean_up(self, command: LoadCommand) -> bool:
        """After a failed add: have nothing of it left in the engine. Returns whether that is so."""
        try:
            gone = await self.remove(command.int_id)
        except ExtensionError:
            gone = False
        with self._record.change() as ledger:
            if gone:
                ledger.forget_leftover(command.int_id)
            else:
                ledger.note_leftover(command.int_id, command.digest)
        if not gone:
            logger.error("a failed load of %s left int id %d behind", command.served_name, command.int_id)
        return gone

    async def remove_leftovers(self) -> None:
        """Try again to remove what failed loads left behind.

        Raises:
            ExtensionError: `engine_error`.
        """
        for int_id in self._record.ledger.leftovers():
            if await self.remove(int_id):
                with self._record.change() as ledger:
                    ledger.forget_leftover(int_id)

    async def remove(self, int_id: int) -> bool:
        """Remove an id until no rank lists it; a step that still ran can bring it back once.

        Returns whether it is gone.

        Raises:
            ExtensionError: `engine_error`.
        """
        for attempt in range(REMOVE_ATTEMPTS):
            if int_id not in (await self.list_ids()).somewhere:
                return True
            if attempt:
                await asyncio.sleep(REMOVE_PAUSE_SECONDS)
            try:
                await self._binding.remove(int_id)
            except Exception as error:
                raise ExtensionError("engine_error", f"remove_lora failed: {unwrap(str(error))}") from error
        return int_id not in (await self.list_ids()).somewhere

    async def list_ids(self) -> Resident:
        """What the engine lists.

        Raises:
            ExtensionError: `engine_error`.
        """
        try:
            return await self._ask()
        except Exception as error:
            raise ExtensionError("engine_error", f"list_loras failed: {unwrap(str(error))}") from error

    async def settled_ids(self) -> Resident:
        """Resident ids that belong to the ledger as it stands: asked again if the ledger changed meanwhile."""
        resident = NOTHING_RESIDENT
        for _ in range(3):
            revision = self._record.ledger.revision
            resident = await self.list_ids()
            if revision == self._record.ledger.revision:
                break
        return resident

    async def _ask(self) -> Resident:
        ranks = await self._binding.list_ranks()
        return Resident(frozenset.intersection(*map(frozenset, ranks)), frozenset().union(*ranks))
