"""What this engine holds and for whom: names, digests, ids, owners, fences. Knows no vLLM and never waits."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from loradock_vllm.commands import Command, LoadCommand
from loradock_vllm.errors import ExtensionError


class AdapterState(StrEnum):
    """Whether new requests for an adapter are admitted."""

    SERVING = "serving"
    DRAINING = "draining"


@dataclass(slots=True)
class Adapter:
    """One adapter that the extension loaded.

    Attributes:
        operation: the operation that loaded it; only that one's undo may remove it.
        state: `draining` refuses new requests.
        generation: raised by every resume, so that an unload that waits can tell that its drain was undone.
        detached: its name was taken from the server because its removal has begun.
    """

    served_name: str
    digest: str
    int_id: int
    path: str
    operation: str
    loaded_at: datetime
    state: AdapterState = AdapterState.SERVING
    generation: int = 0
    detached: bool = False


class Ledger:
    """The adapters of one engine incarnation, and the highest epoch seen for each name."""

    def __init__(self) -> None:
        self._adapters: dict[str, Adapter] = {}
        self._epochs: dict[str, int] = {}
        self._undoing: dict[str, tuple[int, str]] = {}
        self._leftovers: dict[int, str] = {}
        self.revision = 0
        """Raised by every change of what is held."""

    def fence(self, command: Command) -> None:
        """Admit a call of this epoch for its name, and remember it.

        Raises:
            ExtensionError: `stale_epoch` when a later epoch was seen for the name, or when the call goes forward
                although its run has begun to put back: it was on its way for too long.
        """
        name, epoch = command.served_name, command.epoch
        highest = self._epochs.get(name, -1)
        if epoch < highest:
            raise ExtensionError(
                "stale_epoch",
                f"epoch {epoch} of {name} is over: {highest} was seen",
                epoch=epoch,
                highest_epoch=highest,
            )
        self._epochs[name] = epoch
        run = (epoch, command.run_id)
        if command.undo:
            self._undoing[name] = run
        elif self._undoing.get(name) == run:
            raise ExtensionError(
                "stale_epoch", f"the run of epoch {epoch} puts {name} back already", epoch=epoch
            )

    def epoch(self, served_name: str) -> int:
        """The highest epoch seen for the name, -1 when none was."""
        return self._epochs.get(served_name, -1)

    def get(self, served_name: str) -> Adapter | None:
        """The adapter held under this name."""
        return self._adapters.get(served_name)

    def require(self, served_name: str) -> Adapter:
        """The adapter held under this name.

        Raises:
            ExtensionError: `adapter_not_loaded`.
        """
        adapter = self._adapters.get(served_name)
        if adapter is None:
            raise ExtensionError("adapter_not_loaded", f"{served_name} is not loaded here")
        return adapter

    def adapters(self) -> list[Adapter]:
        """All adapters held, by name."""
        return [self._adapters[name] for name in sorted(self._adapters)]

    def int_ids(self) -> set[int]:
        """The int ids of all adapters held."""
        return {adapter.int_id for adapter in self._adapters.values()}

    def match(self, command: LoadCommand) -> Adapter | None:
        """The adapter that a load asks for, when it is held already; None when it must be loaded.

        Raises:
            ExtensionError: `adapter_conflict` or `int_id_conflict` when name or id is held for something else.
        """
        held = self._adapters.get(command.served_name)
        if held is not None:
            if (held.digest, held.int_id) != (command.digest, command.int_id):
                raise ExtensionError(
                    "adapter_conflict",
                    f"{command.served_name} is held with other weights or another id",
                    digest=held.digest,
                    int_id=held.int_id,
                )
            return held
        for other in self._adapters.values():
            if other.int_id == command.int_id:
                raise ExtensionError(
                    "int_id_conflict",
                    f"int id {command.int_id} belongs to {other.served_name}",
                    served_name=other.served_name,
                    digest=other.digest,
                )
        leftover = self._leftovers.get(command.int_id)
        if leftover is not None and leftover != command.digest:
            raise ExtensionError(
                "int_id_conflict",
                f"int id {command.int_id} is still taken by a failed load of other weights",
                digest=leftover,
            )
        return None

    def add(self, command: LoadCommand) -> Adapter:
        """Hold the adapter that a load brought, owned by its operation."""
        adapter = Adapter(
            served_name=command.served_name,
            digest=command.digest,
            int_id=command.int_id,
            path=command.path,
            operation=command.operation,
            loaded_at=datetime.now(UTC),
        )
        self._adapters[adapter.served_name] = adapter
        self._leftovers.pop(adapter.int_id, None)
        self.revision += 1
        return adapter

    def discard(self, adapter: Adapter) -> None:
        """Forget an adapter; its name's epoch stays."""
        if self._adapters.get(adapter.served_name) is adapter:
            del self._adapters[adapter.served_name]
            self.revision += 1

    @staticmethod
    def start_drain(adapter: Adapter) -> int:
        """Refuse new requests; returns the generation that the drain belongs to."""
        adapter.state = AdapterState.DRAINING
        return adapter.generation

    @staticmethod
    def resume(adapter: Adapter) -> None:
        """Admit requests again, which ends every drain begun before."""
        adapter.state = AdapterState.SERVING
        adapter.detached = False
        adapter.generation += 1

    def note_leftover(self, int_id: int, digest: str) -> None:
        """Remember an id that a failed load left in the engine and that could not be removed."""
        self._leftovers[int_id] = digest

    def forget_leftover(self, int_id: int) -> None:
        """The id is out of the engine."""
        self._leftovers.pop(int_id, None)

    def leftovers(self) -> set[int]:
        """Ids that failed loads left in the engine."""
        return set(self._leftovers)
