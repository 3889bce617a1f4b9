"""Loads that running answers do not feel: the workers read an adapter beside their steps, all of them or none."""

import asyncio
import contextlib
import importlib
import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from loradock_vllm.errors import ConfigurationError
from loradock_vllm.staging.hints import Hints
from loradock_vllm.version import TESTED_VLLM
from loradock_vllm.worker import WorkerExtension

CAPABILITY: Final = "staged_load"
OPTION: Final = "--worker-extension-cls loradock_vllm.worker.WorkerExtension"
PROBE_SECONDS: Final = 20.0
CALL_SECONDS: Final = 60.0
"""How long one call of the workers may take: they answer between two steps."""
DISCARD_SECONDS: Final = 10.0
ASK_SECONDS: Final = 0.25
"""How often the workers are asked when no word of theirs arrives."""

PREFIX: Final = "LORADOCK_EXTENSION_"

logger = logging.getLogger("vllm.loradock")


class StagedLoadMode(StrEnum):
    """Whether loads are staged: `auto` where it is tested, `on` wherever the engine has what it takes, `off` never."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class StagedLoadSettings:
    """How loads are staged.

    Attributes:
        seconds: after which a staging is given up.
        max_bytes: size of the largest adapter that is staged; a larger one is loaded in the step loop.
        work_seconds: how long a worker's thread works at a stretch while requests run.
        rest_seconds: how long it rests then.
    """

    mode: StagedLoadMode = StagedLoadMode.AUTO
    seconds: float = 120.0
    max_bytes: int = 8 * 1024**3
    work_seconds: float = 0.0005
    rest_seconds: float = 0.002

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "StagedLoadSettings":
        """Read `LORADOCK_EXTENSION_STAGED_LOAD` and `LORADOCK_EXTENSION_STAGED_LOAD_…`.

        Raises:
            ConfigurationError: a value is malformed.
        """
        name, default = f"{PREFIX}STAGED_LOAD", cls()
        text = environment.get(name, "").strip().lower() or default.mode.value
        if text not in list(StagedLoadMode):
            raise ConfigurationError(f"{name} must be one of {', '.join(StagedLoadMode)}")
        return cls(
            mode=StagedLoadMode(text),
            seconds=_number(environment, f"{name}_SECONDS", default.seconds),
            max_bytes=int(_number(environment, f"{name}_MAX_BYTES", default.max_bytes)),
            work_seconds=_number(environment, f"{name}_WORK_MS", default.work_seconds * 1e3) / 1e3,
            rest_seconds=_number(environment, f"{name}_REST_MS", default.rest_seconds * 1e3) / 1e3,
        )


class Engine(Protocol):
    """What is needed of vLLM's engine client."""

    async def collective_rpc(
        self, method: str, timeout: float | None = None, args: tuple[Any, ...] = ()
    ) -> list[Any]:
        """Call a method of every worker, between two steps."""


class StagedLoadError(Exception):
    """The workers did not load the adapter; the text is theirs."""


class NotStagedError(Exception):
    """This adapter cannot be staged here, but may be loaded in the step loop."""


class StagedLoads:
    """The staged loads of one engine. One at a time; who calls sees to that.

    Args:
        engine: None when the server has none that can be called.
        version: vLLM's.
        extension: the class that vLLM mixes into its workers, as it was named at the start.
        ranks: how many engines share the requests (data parallel).
    """

    def __init__(
        self,
        engine: Engine | None,
        *,
        version: str,
        device: str,
        extension: str,
        ranks: int,
        settings: StagedLoadSettings,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._workers = 0
        self._probe: asyncio.Task[str] | None = None
        self._why_not = self._told_before(version, device, extension, ranks)

    @property
    def why_not(self) -> str | None:
        """Why loads are not staged; empty when they are, None while that is not known yet."""
        return self._why_not

    async def find_out(self) -> str:
        """Ask the workers once whether they can; returns why not, or nothing. Never raises."""
        if self._why_not is None:
            if self._probe is None:
                self._probe = asyncio.create_task(self._ask())
            self._why_not = await asyncio.shield(self._probe)
        return self._why_not

    async def add(self, name: str, int_id: int, path: str) -> None:
        """Load an adapter on every worker. After any failure, cancellation among them, nothing is left on any.

        Raises:
            NotStagedError: nothing was begun; `add_lora` may do it.
            StagedLoadError: the words of the worker that failed.
        """
        token, began = uuid.uuid4().hex, time.monotonic()
        hints = Hints(token)
        try:
            with hints.listening(self._workers):
                reports = await self._stage(token, name, int_id, path, hints)
                while not _all(reports, "ready"):
                    await hints.wait(ASK_SECONDS)
                    reports = await self._call("loradock_staged", token, allowed=("staging", "ready"))
            await self._call("loradock_commit", token, allowed=("committed",))
        except BaseException:
            await self._discard(token)
            raise
        staged = max(report["seconds"] for report in reports)
        rested = max(report["rested_seconds"] for report in reports)
        logger.info(
            "staged %s in %.0f ms, %.0f of them at rest; %.0f ms in all",
            name, staged * 1e3, rested * 1e3, (time.monotonic() - began) * 1e3,
        )  # fmt: skip

    def _told_before(self, version: str, device: str, extension: str, ranks: int) -> str | None:
        """What can be told without asking the workers."""
        mode = self._settings.mode
        if mode is StagedLoadMode.OFF:
            return f"{PREFIX}STAGED_LOAD is off"
        if not callable(getattr(self._engine, "collective_rpc", None)):
            return "this vLLM has no engine_client.collective_rpc"
        # Asked for a method that they lack, several workers would each answer with an error, of which vLLM reads one.
        if not _is_ours(extension):
            return f"the engine was started without {OPTION}"
        if ranks > 1:
            return "of a data parallel engine's ranks only the first one's answer would be seen"
        # Any device of a tested version would do; what differs between devices the workers tell.
        if mode is StagedLoadMode.AUTO and version.split("+", 1)[0] not in TESTED_VLLM:
            return f"it is not tested with vLLM {version} on {device}; {PREFIX}STAGED_LOAD=on tries it all the same"
        return None

    async def _ask(self) -> str:
        try:
            answers = await self._rpc("loradock_probe", (), PROBE_SECONDS)
        except TimeoutError:
            return f"the workers did not answer within {PROBE_SECONDS:g} s"
        except Exception as error:
            return f"the workers cannot be asked: {type(error).__name__}: {error}"[:500]
        if not answers or not all(isinstance(answer, dict) and "missing" in answer for answer in answers):
            return f"the workers' answer is not understood: {answers}"[:500]
        missing = sorted({str(part) for answer in answers for part in answer["missing"]})
        if missing:
            return f"the workers lack {', '.join(missing)}"
        self._workers = len(answers)
        return ""

    async def _stage(
        self, token: str, name: str, int_id: int, path: str, hints: Hints
    ) -> list[dict[str, Any]]:
        settings = self._settings
        order = {
            "token": token,
            "name": name,
            "int_id": int_id,
            "path": path,
            "seconds": settings.seconds,
            "max_bytes": settings.max_bytes,
            "work_seconds": settings.work_seconds,
            "rest_seconds": settings.rest_seconds,
            "notify": hints.name,
        }
        return await self._call("loradock_stage", order, allowed=("staging", "ready"))

    async def _call(self, method: str, argument: Any, *, allowed: tuple[str, ...]) -> list[dict[str, Any]]:
        """Call every worker, and look at what every one of them says."""
        try:
            reports = await self._rpc(method, (argument,), CALL_SECONDS)
        except TimeoutError:
            raise StagedLoadError(f"{method}: a worker did not answer within {CALL_SECONDS:g} s") from None
        if len(reports) != self._workers or not all(isinstance(report, dict) for report in reports):
            raise StagedLoadError(f"{method}: {len(reports)} of {self._workers} workers answered")
        for report in reports:
            if report["state"] == "too_large":
                raise NotStagedError(report["error"])
        for report in reports:
            if report["state"] not in allowed:
                raise StagedLoadError(report["error"] or f"{method}: a worker says {report['state']}")
        return reports

    async def _rpc(self, method: str, args: tuple[Any, ...], seconds: float) -> list[Any]:
        assert self._engine is not None  # noqa: S101
        # Never vLLM's own timeout: with several workers, what arrives after it is taken for the next call's answer.
        return list(await asyncio.wait_for(self._engine.collective_rpc(method, None, args), seconds))

    async def _discard(self, token: str) -> None:
        """Have nothing left on any worker; a cancellation of the caller waits for that."""
        task = asyncio.create_task(self._discard_everywhere(token))
        cancelled = False
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                cancelled = True
            except Exception:
                logger.exception("Loradock extension: a staging could not be discarded")
        if cancelled:
            raise asyncio.CancelledError

    async def _discard_everywhere(self, token: str) -> None:
        end = time.monotonic() + DISCARD_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                reports = await self._rpc("loradock_discard", (token,), DISCARD_SECONDS)
                if _all(reports, "gone"):
                    return
            if time.monotonic() > end:
                # The workers give it up themselves at its deadline, and sweep before the next.
                logger.error("Loradock extension: a staging is not discarded yet on every worker")
                return
            await asyncio.sleep(0.02)


def _all(reports: list[dict[str, Any]], state: str) -> bool:
    return all(report["state"] == state for report in reports)


def _is_ours(extension: str) -> bool:
    """Whether the class of this name is our worker extension, or one that inherits it."""
    if extension == f"{WorkerExtension.__module__}.{WorkerExtension.__qualname__}":
        return True
    module, _, name = extension.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name) if module else None
    except Exception:
        return False
    return isinstance(found, type) and issubclass(found, WorkerExtension)


def _number(environment: Mapping[str, str], name: str, default: float) -> float:
    text = environment.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigurationError(f"{name} must be a number of at least 0")
    return value
