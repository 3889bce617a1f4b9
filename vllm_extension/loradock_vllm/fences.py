"""Which calls come too late: the highest epoch seen for each name, and the runs that have begun to put back."""

from typing import Any

from loradock_vllm.commands import Command
from loradock_vllm.errors import ExtensionError


class Fences:
    """Refuses calls of operations that are over."""

    def __init__(self) -> None:
        self._epochs: dict[str, int] = {}
        self._undoing: dict[str, tuple[int, str]] = {}

    def admit(self, command: Command) -> None:
        """Admit a call of this epoch for its name, and remember it.

        Raises:
            ExtensionError: `stale_epoch` when a later epoch was seen for the name, or when the call goes forward
                although its run has begun to put back: it was on its way for too long.
        """
        name, epoch = command.served_name, command.epoch
        highest = self.epoch(name)
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

    def dump(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return {"epochs": self._epochs, "undoing": self._undoing}

    @classmethod
    def read(cls, saved: dict[str, Any]) -> "Fences":
        """What `dump` gave."""
        fences = cls()
        fences._epochs = dict(saved["epochs"])
        fences._undoing = {name: (epoch, run) for name, (epoch, run) in saved["undoing"].items()}
        return fences
