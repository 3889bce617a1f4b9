"""The server's table of adapters, kept as the ledger says, in every process."""

from loradock_vllm.binding import EngineBinding
from loradock_vllm.ledger import Ledger


class ServedNames:
    """What this process's server answers for.

    Args:
        binding: the server's table.
    """

    def __init__(self, binding: EngineBinding) -> None:
        self._binding = binding
        self._bound: dict[str, tuple[int, str]] = {}

    def follow(self, ledger: Ledger) -> None:
        """Bind what is held, and nothing else."""
        wanted = {
            adapter.served_name: (adapter.int_id, adapter.path)
            for adapter in ledger.adapters()
            if not adapter.detached
        }
        for name in self._bound.keys() - wanted.keys():
            self._binding.unbind_name(name)
        for name, (int_id, path) in wanted.items():
            if self._bound.get(name) != (int_id, path):
                self._binding.bind_name(name, int_id, path)
        self._bound = wanted
