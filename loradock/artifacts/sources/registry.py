"""All sources by their scheme: itself a source, for any address."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

from loradock.artifacts.protocol import KeepsCopies, Progress, Reader, Source, SourceFile
from loradock.artifacts.sources.address import parse_address
from loradock.core.errors import LoradockError


class SourceSet:
    """Hands each call to the source of the address's scheme.

    Args:
        sources: scheme in lower case to source.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = dict(sources)

    def add(self, scheme: str, source: Source) -> None:
        """Let a source read the addresses of a scheme, in place of one that did before."""
        self._sources[scheme.lower()] = source

    @property
    def schemes(self) -> frozenset[str]:
        """The schemes that are known."""
        return frozenset(self._sources)

    def for_address(self, uri: str) -> Source:
        """The source that reads this address.

        Raises:
            LoradockError: `invalid_source_uri`, `unsupported_scheme`.
        """
        scheme = parse_address(uri).scheme
        source = self._sources.get(scheme)
        if source is None:
            raise LoradockError("unsupported_scheme", f"there is no source for {scheme}://", scheme=scheme)
        return source

    def exists(self, uri: str) -> bool:
        """As `Source.exists`."""
        return self.for_address(uri).exists(uri)

    def list(self, uri: str, progress: Progress | None = None) -> list[SourceFile]:
        """As `Source.list`."""
        return self.for_address(uri).list(uri, progress)

    def fetch(
        self, uri: str, file: SourceFile, progress: Progress | None = None
    ) -> AbstractContextManager[Reader]:
        """As `Source.fetch`."""
        return self.for_address(uri).fetch(uri, file, progress)

    def forget(self, uri: str) -> None:
        """As `KeepsCopies.forget`, for a source that keeps any."""
        source = self._sources.get(uri.partition(":")[0].lower())
        if isinstance(source, KeepsCopies):
            source.forget(uri)
