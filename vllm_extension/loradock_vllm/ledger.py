"""What this engine holds and for whom: names, digests, ids, owners. Knows no vLLM, no process, and never waits."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NamedTuple

from loradock_vllm.commands import Command, LoadCommand
from loradock_vllm.errors import ExtensionError
from loradock_vllm.fences import Fences
from loradock_vllm.pace import RecentLoads


class AdapterState(StrEnum):
    """Whether new requests for an adapter are admitted."""

    SERVING = "serving"
    DRAINING = "draining"


class Resident(NamedTuple):
    """What the ranks of an engine list.

    Attributes:
        everywhere: int ids that all ranks hold: only these can answer.
        somewhere: those that any rank holds: only what is not among these is gone.
    """

    everywhere: frozenset[int]
    somewhere: frozenset[int]


NOTHING_RESIDENT: Final = Resident(frozenset(), frozenset())


@dataclass(frozen=True, slots=True)
class Loading:
    """The load that is under way, or was when the process that had begun it died.

    Attributes:
        before: what was resident: an engine that adds an adapter answers nothing else meanwhile.
    """

    int_id: int
    before: Resident


@dataclass(slots=True)
class Adapter:
    """One adapter that the extension loaded. Only the ledger changes it.

    Attributes:
        operation: the operation that loaded it; only that one's undo may remove it.
        cell: the number under which its running requests are counted; no other adapter held has it.
        serial: new for every load, so that an adapter that came back under its name is told from the one before.
        epoch: the highest epoch seen for the name.
        state: `draining` refuses new requests.
        generation: raised by every resume, so that an unload that waits can tell that its drain was undone.
        detached: its name was taken from the server because its removal has begun.
        aborting: its running requests shall end now.
    """

    served_name: str
    digest: str
    int_id: int
    path: str
    operation: str
    loaded_at: datetime
    cell: int
    serial: int
    epoch: int
    state: AdapterState = AdapterState.SERVING
    generation: int = 0
    detached: bool = False
    aborting: bool = False


class Ledger:
    """The adapters of one engine incarnation, and the fences before their names.

    Args:
        fences: those seen so far; who only reads the ledger needs none.
    """

    def __init__(self, fences: Fences | None = None) -> None:
        self.fences = fences or Fences()
        self._adapters: dict[str, Adapter] = {}
        self._leftovers: dict[int, str] = {}
        self._serial = 0
        self.recent_loads = RecentLoads()
        self.loading: Loading | None = None
        self.revision = 0
        """Raised by every change of what is held."""

    def fence(self, command: Command) -> None:
        """Admit a call for its name, and remember it.

        Raises:
            ExtensionError: `stale_epoch`.
        """
        self.fences.admit(command)
        held = self._adapters.get(command.served_name)
        if held is not None:
            held.epoch = command.epoch

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

    def holds(self, adapter: Adapter) -> bool:
        """Whether this very adapter is held still, not another one under its name."""
        held = self._adapters.get(adapter.served_name)
        return held is not None and held.serial == adapter.serial

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

    def begin_load(self, command: LoadCommand, before: Resident, now: float) -> None:
        """The engine is about to be asked: from now on a load that is cut off counts as one that left its id behind.

        Args:
            before: what is resident.
            now: in seconds of the machine's monotonic clock.
        """
        self.loading = Loading(command.int_id, before)
        self.recent_loads.begin(now)
        if command.served_name not in self._adapters:
            self._leftovers[command.int_id] = command.digest

    def add(self, command: LoadCommand) -> Adapter:
        """The load went well: hold its adapter, for its operation; one that was held already keeps its owner."""
        self._leftovers.pop(command.int_id, None)
        self.revision += 1
        held = self._adapters.get(command.served_name)
        if held is not None:
            held.path = command.path
            return held
        self._serial += 1
        adapter = Adapter(
            served_name=command.served_name,
            digest=command.digest,
            int_id=command.int_id,
            path=command.path,
            operation=command.operation,
            loaded_at=datetime.now(UTC),
            cell=self._free_cell(),
            serial=self._serial,
            epoch=max(command.epoch, self.fences.epoch(command.served_name)),
        )
        self._adapters[adapter.served_name] = adapter
        return adapter

    def end_load(self, now: float) -> None:
        """The engine has been asked, and what came of it was noted."""
        self.loading = None
        self.recent_loads.end(now)

    def note_leftover(self, int_id: int, digest: str) -> None:
        """Remember an id that a failed load, or an unload that was given up, left in the engine."""
        self._leftovers[int_id] = digest

    def discard(self, adapter: Adapter) -> None:
        """Forget an adapter, if it is held still."""
        if self.holds(adapter):
            del self._adapters[adapter.served_name]
            self.revision += 1

    def start_drain(self, served_name: str) -> Adapter:
        """Refuse new requests; gives the adapter as it is at this moment, to compare with later.

        Raises:
            ExtensionError: `adapter_not_loaded`.
        """
        adapter = self.require(served_name)
        adapter.state = AdapterState.DRAINING
        return replace(adapter)

    def start_abort(self, adapter: Adapter) -> None:
        """Have the running requests of an adapter end now, in every process."""
        if self.holds(adapter):
            self._adapters[adapter.served_name].aborting = True

    def detach(self, adapter: Adapter) -> None:
        """Its removal begins: its name is nobody's to use."""
        if self.holds(adapter):
            self._adapters[adapter.served_name].detached = True

    def resume(self, served_name: str) -> None:
        """Admit requests again, which ends every drain begun before.

        Raises:
            ExtensionError: `adapter_not_loaded`.
        """
        adapter = self.require(served_name)
        adapter.state = AdapterState.SERVING
        adapter.detached = adapter.aborting = False
        adapter.generation += 1

    def forget_leftover(self, int_id: int) -> None:
        """The id is out of the engine."""
        self._leftovers.pop(int_id, None)

    def leftovers(self) -> set[int]:
        """Ids that were left in the engine, or may have been left there, and that nothing is held for."""
        return set(self._leftovers)

    def dump(self) -> dict[str, Any]:
        """All of it but the fences, as JSON values."""
        return {
            "adapters": [
                {**asdict(adapter), "loaded_at": adapter.loaded_at.isoformat()}
                for adapter in self._adapters.values()
            ],
            "leftovers": list(self._leftovers.items()),
            "serial": self._serial,
            "loading": self.loading and [self.loading.int_id, *map(list, self.loading.before)],
            "recent_loads": self.recent_loads.dump(),
            "revision": self.revision,
        }

    @classmethod
    def read(cls, saved: dict[str, Any], fences: Fences | None = None) -> "Ledger":
        """What `dump` gave."""
        ledger = cls(fences)
        for fields in saved["adapters"]:
            adapter = Adapter(**fields)
            adapter.loaded_at = datetime.fromisoformat(fields["loaded_at"])
            adapter.state = AdapterState(fields["state"])
            ledger._adapters[adapter.served_name] = adapter
        ledger._leftovers = dict(saved["leftovers"])
        ledger._serial = saved["serial"]
        if saved["loading"] is not None:
            int_id, everywhere, somewhere = saved["loading"]
            ledger.loading = Loading(int_id, Resident(frozenset(everywhere), frozenset(somewhere)))
        ledger.recent_loads = RecentLoads(**saved["recent_loads"])
        ledger.revision = saved["revision"]
        return ledger

    def _free_cell(self) -> int:
        taken = {adapter.cell for adapter in self._adapters.values()}
        return next(cell for cell in range(1, len(taken) + 2) if cell not in taken)
