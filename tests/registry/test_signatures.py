"""What is kept of a version's signature when the same weights come again, and what a policy then lets be loaded."""

from datetime import UTC, datetime, timedelta

import pytest

from loradock.core.errors import LoradockError
from loradock.core.models import VersionRef
from loradock.core.signatures import (
    SignaturePolicy,
    SignatureRecord,
    SignatureRule,
    SignatureStatus,
    SignatureVerdict,
    Trusted,
)
from loradock.registry import audit, signatures, versions
from tests.registry.world import BASE, SOURCE, World, manifest, new_publish, traits

VERIFIED, UNSIGNED = SignatureStatus.VERIFIED, SignatureStatus.UNSIGNED
INVALID, UNTRUSTED = SignatureStatus.INVALID, SignatureStatus.UNTRUSTED


def verdict(status: SignatureStatus, signer: str | None = None, minute: int = 0) -> SignatureVerdict:
    return SignatureVerdict(
        status=status,
        policy=SignaturePolicy.WARN,
        reason=f"it is {status}",
        signer=signer,
        anchor=signer if status is VERIFIED else None,
        checked_at=datetime(2026, 1, 2, tzinfo=UTC) + timedelta(minutes=minute),
    )


async def publish(world: World, found: SignatureVerdict | None) -> VersionRef:
    """Publish the same weights (again), their signature being as found."""
    run = await world.start(new_publish())
    for _ in range(2):  # the second time as if the first answer had been lost
        async with world.database.transaction() as tx:
            reserved = await versions.reserve(
                tx,
                run,
                adapter="greeter",
                manifest=manifest("one"),
                traits=traits(),
                source_uri=SOURCE,
                base_model=BASE,
                labels={},
                actor="alice",
                signature=found,
            )
    async with world.database.transaction() as tx:
        await versions.mark_ready(tx, run, reserved.ref, "s3://store/one")
    await world.finish(run)
    return reserved.ref


async def known(world: World) -> SignatureRecord | None:
    async with world.database.read() as tx:
        return (await versions.get_version(tx, "greeter", 1)).signature


async def test_what_policy_never_asked_for_is_not_known(world: World) -> None:
    await publish(world, None)
    assert await known(world) is None


@pytest.mark.parametrize("later", [None, UNSIGNED, INVALID, UNTRUSTED])
async def test_a_verified_signature_outlives_a_later_publish_without(
    world: World, later: SignatureStatus | None
) -> None:
    await publish(world, verdict(VERIFIED, "sha256:aa"))
    before = await known(world)
    await publish(world, None if later is None else verdict(later, minute=1))
    assert await known(world) == before
    assert before is not None
    assert before.status is VERIFIED


async def test_everything_else_gives_way_to_what_is_newer(world: World) -> None:
    steps = [
        (verdict(UNSIGNED), UNSIGNED, None),
        (verdict(INVALID, minute=1), INVALID, None),
        (None, INVALID, None),
        (verdict(UNTRUSTED, "sha256:mm", minute=2), UNTRUSTED, "sha256:mm"),
        (verdict(VERIFIED, "sha256:aa", minute=3), VERIFIED, "sha256:aa"),
        (verdict(VERIFIED, "sha256:bb", minute=4), VERIFIED, "sha256:bb"),
    ]
    for found, status, signer in steps:
        await publish(world, found)
        now = await known(world)
        assert now is not None
        assert (now.status, now.signer) == (status, signer)


async def test_every_check_is_audited_once_kept_or_not(world: World) -> None:
    await publish(world, verdict(VERIFIED, "sha256:aa"))
    await publish(world, verdict(UNSIGNED, minute=1))
    async with world.database.read() as tx:
        found = (await audit.list_events(tx, adapter="greeter")).items
        assert (await audit.verify_chain(tx)).broken_at is None
    events = [event for event in reversed(found) if event.action == "version.signature_checked"]
    seen = [(one.version, one.outcome, one.detail["kept"], one.detail.get("signer")) for one in events]
    assert seen[0] == (1, "ok", True, "sha256:aa")
    assert set(seen[1:]) == {(1, "unsigned", False, None)}


async def test_only_what_a_trusted_signature_covers_is_admitted_where_it_is_required(world: World) -> None:
    require = SignatureRule(policy=SignaturePolicy.REQUIRE, trusted=(Trusted(anchor="sha256:aa"),))
    narrowed = SignatureRule(policy=SignaturePolicy.REQUIRE, trusted=(Trusted(anchor="sha256:bb"),))

    async def code(ref: VersionRef, rule: SignatureRule) -> str | None:
        async with world.database.read() as tx:
            try:
                await signatures.check_admitted(tx, ref, rule)
            except LoradockError as error:
                return error.code
        return None

    ref = await publish(world, None)
    assert await code(ref, SignatureRule()) is None
    assert await code(ref, require) == "signature_required"
    await publish(world, verdict(UNSIGNED))
    assert await code(ref, require) == "signature_required"
    await publish(world, verdict(VERIFIED, "sha256:aa", minute=1))
    assert await code(ref, require) is None
    # The key was taken from the policy: what it alone vouches for is not loaded any more.
    assert await code(ref, narrowed) == "signature_required"
