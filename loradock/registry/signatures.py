"""What is known of a version's signature: kept once for its digest, whoever published it how often."""

from loradock.core.errors import LoradockError
from loradock.core.models import VersionRef
from loradock.core.signatures import SignatureRecord, SignatureRule, SignatureStatus, SignatureVerdict
from loradock.registry.database import Reader, Transaction
from loradock.registry.operations import about
from loradock.registry.tables import OperationRow, VersionRow


def keep(tx: Transaction, row: VersionRow, operation: OperationRow, verdict: SignatureVerdict | None) -> None:
    """Note what a publish found. It is true of the digest, so of the version for ever: a verified signature gives way
    only to another verified one, not to what comes later without; everything else gives way to what is newer.
    """
    if verdict is None:
        return
    known = record_of(row)
    found = SignatureRecord(**verdict.model_dump(), operation=operation.id)
    if known == found:
        return  # tried again
    held = known is not None and known.status is SignatureStatus.VERIFIED
    kept = not held or found.status is SignatureStatus.VERIFIED
    if kept:
        row.signature = found.model_dump(mode="json")
    event = about(operation) | {"version": row.version}
    detail = found.model_dump(mode="json", exclude={"operation", "checked_at"}, exclude_none=True)
    outcome = "ok" if found.status is SignatureStatus.VERIFIED else str(found.status)
    tx.audit("version.signature_checked", **event, outcome=outcome, digest=row.digest, kept=kept, **detail)


def record_of(row: VersionRow) -> SignatureRecord | None:
    """What is known of the version's signature; None when none was ever asked for."""
    return None if row.signature is None else SignatureRecord.model_validate(row.signature)


async def check_admitted(tx: Reader, ref: VersionRef, rule: SignatureRule) -> None:
    """See that the policy lets the version be loaded.

    Raises:
        LoradockError: `signature_required`.
    """
    row = await tx.session.get(VersionRow, (ref.adapter, ref.version))
    known = None if row is None else record_of(row)
    if rule.admits(known):
        return
    what = "was never checked" if known is None else str(known.status)
    if known is not None and known.status is SignatureStatus.VERIFIED:
        what = f"was made by {known.signer}, whom the policy does not trust (any more)"
    raise LoradockError(
        "signature_required", f"the signature of {ref.served_name} {what}", policy=rule.adapters
    )
