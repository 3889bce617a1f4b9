"""Which adapter the current request may use: exactly the one that it was counted for, or none.

Requests can name an adapter in more ways than the JSON field `model` (forms, headers of hosting platforms,
websockets, modality names). Instead of knowing them all, the server's own table of adapters shows a request only the
adapter that the middleware admitted it for. A request that was not counted cannot use an adapter, so no drain can
miss one.
"""

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from contextvars import ContextVar
from typing import Any, Final

NOTHING: Final = ""
"""No adapter of ours is visible."""

LISTING: Final = "*"
"""All are visible to those who list them; none can be used. No served name looks like this."""

_admitted: ContextVar[str] = ContextVar("loradock_admitted_adapter", default=NOTHING)


class seeing:  # noqa: N801 - used as a statement: `with seeing(name):`
    """Within it the current request sees the adapter of this name, or `NOTHING`, or `LISTING`.

    Set for every request, never assumed: a pipelined request can inherit the context of the one before it.
    """

    __slots__ = ("_name", "_token")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._token = _admitted.set(self._name)

    def __exit__(self, *_: object) -> None:
        _admitted.reset(self._token)


class AdmittedAdapters(dict[str, Any]):
    """The server's table of adapters, name to request.

    What the extension bound shows itself to admitted requests only; other entries are always visible.
    """

    def __init__(self, entries: dict[str, Any]) -> None:
        super().__init__(entries)
        self._bound: set[str] = set()

    def bind(self, name: str, entry: Any) -> None:
        """Add an adapter of ours."""
        self._bound.add(name)
        super().__setitem__(name, entry)

    def unbind(self, name: str) -> None:
        """Take an adapter of ours away; one that is not there is no mistake."""
        if name in self._bound:
            self._bound.discard(name)
            super().pop(name, None)

    def foreign(self) -> dict[str, Any]:
        """The entries that the extension did not make."""
        return {name: entry for name, entry in super().items() if name not in self._bound}

    def _usable(self, name: object) -> bool:
        return name not in self._bound or name == _admitted.get()

    def _shown(self) -> dict[str, Any]:
        admitted = _admitted.get()
        return {
            name: entry
            for name, entry in super().items()
            if admitted in (LISTING, name) or name not in self._bound
        }

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) and self._usable(name)

    def __getitem__(self, name: str) -> Any:
        if not self._usable(name):
            raise KeyError(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """The entry, if it is there and the current request may use it."""
        return super().get(name, default) if self._usable(name) else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._shown())

    def __len__(self) -> int:
        return len(self._shown())

    def keys(self) -> KeysView[str]:  # type: ignore[override]
        """The names that the current request sees."""
        return self._shown().keys()

    def values(self) -> ValuesView[Any]:  # type: ignore[override]
        """The entries that the current request sees."""
        return self._shown().values()

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """The names and entries that the current request sees."""
        return self._shown().items()
