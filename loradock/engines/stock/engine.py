"""Stock vLLM, without Loradock's extension: a second driver with fewer promises (docs/engines.md).

What keeps the answers right all the same: names and paths are never used for other weights (the path carries the digest),
the engine's own list says which path answers under a name, every start of the engine is noticed, and what the engine cannot
refuse, the host's record does.
"""

import ssl
import time
from pathlib import Path
from typing import Final

import httpx
from pydantic import SecretStr

from loradock.core.errors import LoradockError
from loradock.core.promises import EnginePromise
from loradock.engines.http import EngineHttp, Patience
from loradock.engines.protocol import (
    DrainCommand,
    DrainResult,
    EngineState,
    LoadCommand,
    LoadResult,
    ProbeResult,
    ResumeCommand,
    ResumeResult,
    UnloadCommand,
    UnloadResult,
)
from loradock.engines.stock.changes import StockChanges, not_loaded, since
from loradock.engines.stock.look import StockLook
from loradock.engines.stock.options import StockOptions
from loradock.engines.stock.quiet import QuietWatch
from loradock.engines.stock.record import StockRecord
from loradock.engines.stock.report import DigestOf, StockReporter
from loradock.engines.stock.server import StockServer

_UNKEPT_BY_DRAIN: Final = (EnginePromise.DRAIN_COUNT,)
_UNKEPT_BY_UNLOAD: Final = (EnginePromise.TRUE_UNLOAD, EnginePromise.RESIDENCY_CHECK)


class StockVllmEngine:
    """The driver of one stock engine.

    A drain is an unload of vLLM's, which takes the name away and no more; a resume loads the same path again.

    Args:
        url: where the engine's server listens, without a path.
        record: the file of the host's record of this engine.
        digest_of: tells weights by their path.
        options: what the operator says of it.
        api_key: vLLM's own `--api-key`.
        client: an HTTP client to use instead of an own one; it is not closed here.
        tls: for an own client; a context of its own for each engine costs megabytes.
        patience: how long the engine may take.
    """

    def __init__(
        self,
        url: str,
        record: Path,
        digest_of: DigestOf,
        *,
        options: StockOptions | None = None,
        api_key: SecretStr | None = None,
        client: httpx.AsyncClient | None = None,
        tls: ssl.SSLContext | None = None,
        patience: Patience | None = None,
    ) -> None:
        options = options or StockOptions()
        self._http = EngineHttp(url, api_key=api_key, client=client, tls=tls, patience=patience)
        self._server = StockServer(self._http)
        self._look = StockLook(self._server, options)
        self._record = StockRecord(record)
        self._reporter = StockReporter(options, digest_of)
        self._quiet = QuietWatch(options, self._server.metrics)
        self._changes = StockChanges(self._server, self._look, self._record, self._reporter, self._quiet)

    async def state(self) -> EngineState:
        """What the engine holds now.

        Raises:
            LoradockError: see `Engine`; `engine_not_supported` when it is no stock vLLM, or its adapters cannot be changed.
        """
        seen = await self._look.look()
        self._quiet.observe(seen.metrics)
        record = self._record.read(seen.incarnation)
        unfinished = [name for name in record.unfinished if not self._quiet.is_quiet(name, seen.metrics)]
        return self._reporter.state(seen, record, unfinished)

    async def load(self, command: LoadCommand) -> LoadResult:
        """Load a version. Once begun it ends, even if the caller is cancelled.

        Raises:
            LoradockError: see `Engine`; among others `no_free_slot`, `rank_too_high`, `adapter_corrupt`.
        """
        await self._changes.admit(command)
        return await self._changes.load(command)

    async def drain(self, command: DrainCommand) -> DrainResult:
        """Take a name away, and wait until nothing is seen to run for it.

        Raises:
            LoradockError: see `Engine`; among others `adapter_not_loaded`.
        """
        await self._changes.admit(command)
        if await self._changes.take_name(command) is None:
            raise not_loaded(command)
        quiet = await self._quiet.wait(command.served_name, command.wait_seconds)
        return DrainResult(
            outcome="drained" if quiet else "draining", in_flight=None, unkept=_UNKEPT_BY_DRAIN
        )

    async def resume(self, command: ResumeCommand) -> ResumeResult:
        """Give a name back: the same path is loaded again.

        Raises:
            LoradockError: see `Engine`; among others `adapter_not_loaded`, `no_free_slot`.
        """
        await self._changes.admit(command)
        await self._changes.resume(command)
        return ResumeResult(outcome="serving")

    async def unload(self, command: UnloadCommand) -> UnloadResult:
        """Take a name away, wait, and see that it is gone; the weights stay in the engine until it lets go of them.

        Requests that outlast the wait cannot be cut: they end by themselves, from the right weights, and until then the
        adapter's files are kept.

        Raises:
            LoradockError: see `Engine`; `drain_timeout`, `unload_failed` when the name is back.
        """
        began = time.monotonic()
        await self._changes.admit(command)
        entry = await self._changes.take_name(command, command.only_operation)
        if entry is None:
            return UnloadResult(outcome="not_loaded", seconds=since(began))
        if command.only_operation not in (None, entry.operation):
            return UnloadResult(outcome="not_owned", seconds=since(began))
        quiet = await self._quiet.wait(command.served_name, command.drain_seconds, judge=True)
        if not quiet and command.on_timeout == "keep_draining":
            raise LoradockError(
                "drain_timeout",
                f"requests for {command.served_name} still run after {command.drain_seconds:g} s; its name stays taken away",
            )
        if not await self._changes.forget(command, entry, quiet=quiet):
            return UnloadResult(outcome="not_loaded", seconds=since(began))
        cut = () if quiet else (EnginePromise.CUT_REQUESTS,)
        return UnloadResult(outcome="unloaded", seconds=since(began), unkept=(*_UNKEPT_BY_UNLOAD, *cut))

    async def probe(self, served_name: str, prompt: str) -> ProbeResult:
        """Have one token answered under this name.

        Raises:
            LoradockError: see `Engine`; among others `engine_not_verified`.
        """
        return await self._http.probe(served_name, prompt)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
