"""The decision where a load goes, of what is known of the engines: a verdict on each, and an etag over all of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import Field

from loradock.core.errors import LoradockError
from loradock.core.models import Failure, Model, VersionRef
from loradock.core.requests import EngineTarget, LoadPlan, LoadPolicy, LoadRequest
from loradock.registry import engines
from loradock.registry.candidates import Candidate
from loradock.registry.rendezvous import Option, choose, score
from loradock.registry.tables import VersionRow

OTHER_LABELS: Final = "other_labels"
NOT_NEEDED: Final = "not_needed"

_PASSING: Final = frozenset({"engine_lost", "no_free_slot"})
"""What may be otherwise in a while: such an engine is wanted all the same."""


class Action(StrEnum):
    """What a load does to an engine."""

    LOAD = "load"
    KEEP = "keep"
    """It serves the version already: the load proves it, and moves nothing."""
    NONE = "none"


class EngineVerdict(Model):
    """What a load does to one engine, and why.

    Attributes:
        reason: for `load`: `asked_for`, `wanted`, `cached` or `score`; for `keep`: `serves`; for `none`: `not_needed`,
            `other_labels`, or the code of the error that it would be.
        message: the same for people.
        incarnation: the engine's life that was looked at.
        free_slots: as far as the service knows; the engine's own count decides.
        cached: whether the host has the bytes; null where its agent does not tell.
        score: the engine's draw for the adapter: among engines that are otherwise equal the highest are chosen.
        download_bytes: what its host has to fetch, 0 for a host that this plan names before; null where it is not known.
    """

    engine: str
    action: Action
    reason: str
    message: str
    incarnation: str | None
    free_slots: int
    usable_slots: int
    cached: bool | None
    score: float
    download_bytes: int | None


class PlanView(Model):
    """What a load would do, before it does it.

    Attributes:
        etag: over the request, the version's digest and the verdicts. A load that names it does just this or nothing.
        error: what the load would be refused with.
        download_bytes: over all hosts, as far as known.
        request: the load as it would be kept, with everything settled.
    """

    adapter: str
    version: int
    pool: str
    digest: str
    etag: str
    error: Failure | None
    engines: tuple[EngineVerdict, ...]
    download_bytes: int
    request: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Decision:
    """Where a load goes.

    Attributes:
        candidates: the engines that were looked at, by id.
        hindrances: why an engine cannot take the version; those without one can.
        chosen: those that are to, by id.
        etag: 32 hex digits.
    """

    request: LoadRequest
    version: VersionRow
    ref: VersionRef
    base_model: str
    candidates: Sequence[Candidate]
    hindrances: Mapping[str, LoradockError]
    chosen: Mapping[str, str]

    @property
    def etag(self) -> str:
        """Over what is to be done and why; what moves nothing, like a further free slot, does not change it."""
        asked = self.request.model_dump(mode="json", exclude={"plan"})
        verdicts = [
            [one.engine, one.action, one.reason, one.action != Action.NONE and one.incarnation]
            for one in self.verdicts()
        ]
        content = json.dumps([asked, self.ref.digest, self.base_model, verdicts], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    @property
    def error(self) -> LoradockError | None:
        """Why the load cannot be begun, None when it can."""
        asked = [one for one in self.candidates if self._reason(one) != OTHER_LABELS]
        alive = [one for one in asked if one.alive]
        able = [one for one in asked if one.row.id not in self.hindrances]
        if self.candidates and not asked:
            return LoradockError(
                "no_engine_matches", f"no engine of pool {self.request.pool} has these labels"
            )
        if not alive and not self._named:
            return LoradockError("no_engine_alive", f"no engine of pool {self.request.pool} is alive")
        hindered = [one for one in asked if one.row.id in self.hindrances and (one.alive or self._named)]
        all_of_them = self.request.policy is LoadPolicy.ALL and self._replicas is None
        if hindered and (not able or all_of_them):
            return self._first(hindered)
        return self._too_few(hindered)

    def check(self) -> None:
        """See that the load can be begun, and that it is the one that was planned.

        Raises:
            LoradockError: `plan_outdated`, or `error`.
        """
        if self.request.plan not in (None, self.etag):
            raise LoradockError(
                "plan_outdated", "the load would not be what was planned any more", etag=self.etag
            )
        if self.error is not None:
            raise self.error

    def load_plan(self) -> LoadPlan:
        """The plan for the workflow."""
        rows = [one.row for one in self.candidates if one.row.id in self.chosen]
        return LoadPlan(
            ref=self.ref,
            pool=self.request.pool,
            base_model=self.base_model,
            targets=tuple(
                EngineTarget(engine=row.id, agent=row.agent, incarnation=row.incarnation or "")
                for row in rows
            ),
            wanted=self._wanted(),
            left_out=self._left_out(),
        )

    def view(self) -> PlanView:
        """The plan for people."""
        verdicts = tuple(self.verdicts())
        return PlanView(
            adapter=self.request.adapter,
            version=self.request.version,
            pool=self.request.pool,
            digest=self.ref.digest,
            etag=self.etag,
            error=Failure.of(self.error) if self.error else None,
            engines=verdicts,
            download_bytes=sum(one.download_bytes or 0 for one in verdicts),
            request=self.request.model_dump(mode="json"),
        )

    def verdicts(self) -> list[EngineVerdict]:
        """What is done to each engine, by id."""
        supplied: set[str] = set()
        return [self._verdict(one, supplied) for one in self.candidates]

    def _verdict(self, one: Candidate, supplied: set[str]) -> EngineVerdict:
        row, reason = one.row, self._reason(one)
        action = Action.NONE if row.id not in self.chosen else Action.KEEP if one.serves else Action.LOAD
        download: int | None = 0
        if action is Action.LOAD and not one.cached and row.agent not in supplied:
            download = None if one.cached is None else self.version.size
        if action is not Action.NONE:
            supplied.add(row.agent)
        return EngineVerdict(
            engine=row.id,
            action=action,
            reason=reason,
            message=self._message(one, reason),
            incarnation=row.incarnation,
            free_slots=max(0, one.free),
            usable_slots=row.usable_slots,
            cached=one.cached,
            score=round(score(self.request.adapter, row.id, _weight(one)), 3),
            download_bytes=download,
        )

    def _reason(self, one: Candidate) -> str:
        if one.row.id in self.chosen:
            return self.chosen[one.row.id]
        if not matches(self.request, one):
            return OTHER_LABELS
        hindrance = self.hindrances.get(one.row.id)
        return hindrance.code if hindrance else NOT_NEEDED

    def _message(self, one: Candidate, reason: str) -> str:
        if reason in _SENTENCES:
            return _SENTENCES[reason]
        return self.hindrances[one.row.id].message

    @property
    def _named(self) -> bool:
        return bool(self.request.only or self.request.engines)

    @property
    def _replicas(self) -> int | None:
        return None if self.request.only else self.request.replicas

    def _first(self, hindered: Sequence[Candidate]) -> LoradockError:
        """The hindrance that is told: what no waiting helps comes first."""
        errors = [self.hindrances[one.row.id] for one in hindered]
        return next((error for error in errors if error.code not in _PASSING), errors[0])

    def _too_few(self, hindered: Sequence[Candidate]) -> LoradockError | None:
        best_effort = self.request.policy is LoadPolicy.BEST_EFFORT
        least = self.request.min_ready if best_effort else self._replicas or 1
        if len(self.chosen) >= least:
            return None
        full = [one for one in hindered if self.hindrances[one.row.id].code == "no_free_slot"]
        if full and not best_effort:
            return self.hindrances[full[0].row.id]
        return LoradockError(
            "not_enough_engines", f"{least} engines are asked for, {len(self.chosen)} can take the version"
        )

    def _wanted(self) -> tuple[str, ...] | None:
        if self.request.selection.is_whole_pool:
            return None
        passing = {
            name
            for name, error in self.hindrances.items()
            if error.code in _PASSING and self._replicas is None
        }
        return tuple(
            one.row.id
            for one in self.candidates
            if one.row.id in self.chosen or (one.row.id in passing and self._reason(one) != OTHER_LABELS)
        )

    def _left_out(self) -> dict[str, str]:
        if self.request.policy is LoadPolicy.ALL or self._replicas is not None:
            return {}
        asked = [one for one in self.candidates if one.alive or self._named]
        return {
            one.row.id: self.hindrances[one.row.id].code
            for one in asked
            if one.row.id in self.hindrances and self._reason(one) != OTHER_LABELS
        }


_SENTENCES: Final = {
    "serves": "it serves the version already",
    "asked_for": "every engine is asked for",
    "wanted": "an earlier load chose it",
    "cached": "its host has the bytes",
    "score": "its score is among the highest",
    OTHER_LABELS: "it has other labels",
    NOT_NEEDED: "others come first",
}


def matches(request: LoadRequest, one: Candidate) -> bool:
    """Whether the engine is one of those that the request's labels select."""
    return bool(request.only) or request.labels.items() <= one.labels.items()


def pick(
    request: LoadRequest, candidates: Sequence[Candidate], hindrances: Mapping[str, LoradockError]
) -> dict[str, str]:
    """The engines that are to take the version, each with the reason."""
    able = [one for one in candidates if matches(request, one) and one.row.id not in hindrances]
    replicas = None if request.only else request.replicas
    options = [
        Option(
            engine=one.row.id,
            serves=one.serves,
            wanted=one.wanted,
            cached=bool(one.cached),
            weight=_weight(one),
        )
        for one in able
    ]
    return {
        option.engine: _why(option, every=replicas is None)
        for option in choose(request.adapter, options, replicas)
    }


def _why(option: Option, *, every: bool) -> str:
    if option.serves:
        return "serves"
    if every:
        return "asked_for"
    return "wanted" if option.wanted else "cached" if option.cached else "score"


def _weight(one: Candidate) -> float:
    """Room for the adapter's versions: the same for each of them, so that they come to the same engines."""
    return max(1, one.free + one.siblings + one.holds)


def hindrance(version: VersionRow, base_model: str | None, one: Candidate) -> LoradockError | None:
    """Why an engine cannot take the version, None when it can; what depends on the weights' shapes is not looked at."""
    row = one.row
    if not one.alive:
        return engines.lost(row)
    if row.base_model != base_model:
        return LoradockError(
            "base_model_mismatch",
            f"adapter {version.adapter} is for {base_model!r}, engine {row.id} serves {row.base_model!r}",
            engine=row.id,
        )
    if row.max_lora_rank < version.rank:
        return LoradockError(
            "rank_too_high",
            f"rank {version.rank} is above engine {row.id}'s highest, {row.max_lora_rank}",
            engine=row.id,
            rank=version.rank,
            max_lora_rank=row.max_lora_rank,
        )
    if one.free <= 0 and not one.holds:
        return LoradockError(
            "no_free_slot", f"all {row.usable_slots} usable slots of engine {row.id} are taken", engine=row.id
        )
    return None
