"""Which places of the network may be read: lists in the settings, and nothing that they do not name."""

from collections.abc import Collection
from typing import Final

ANY: Final = "*"


class AllowedPlaces:
    """A list such as `bucket`, `bucket/prefix`, `*`; a prefix ends at a slash, `b/team` does not allow `b/teams`.

    Args:
        entries: none denies everything.
        fold_case: whether the first part is compared without its case (hosts).
    """

    def __init__(self, entries: Collection[str], *, fold_case: bool = False) -> None:
        self._fold = fold_case
        self._entries = tuple(self._parts(entry) for entry in entries)

    def allows(self, path: str) -> bool:
        """Whether `place/and/what/is/below/it` is allowed."""
        parts = self._parts(path)
        return any(
            entry[0] in (ANY, parts[0]) and parts[1 : len(entry)] == entry[1:] for entry in self._entries
        )

    def _parts(self, entry: str) -> tuple[str, ...]:
        first, *others = entry.strip("/").split("/")
        return (first.lower() if self._fold else first, *others)
