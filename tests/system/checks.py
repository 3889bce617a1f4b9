"""What must hold whenever nothing is under way: rows, engines, disks, store and audit say the same."""

from temporalio.client import Client

from tests.system.running import RunningStack, eventually


def wait_quiet(stack: RunningStack) -> None:
    """Until no operation is active, nothing is to be repaired and no workflow runs: nothing hangs, no lock is held."""
    active = "SELECT id, kind, state FROM operations WHERE ended_at IS NULL"
    eventually(lambda: not stack.rows(active), "operations do not end", stack.describe)
    unrepaired = (
        "SELECT r.engine, r.reason, r.failure, d.served_name, d.kind, d.failure FROM reconciliations r "
        "JOIN engines e ON e.id = r.engine LEFT JOIN drifts d ON d.engine = r.engine "
        "WHERE r.wanted_since IS NOT NULL AND e.status = 'alive'"
    )
    eventually(
        lambda: not stack.rows(unrepaired), "engines are not repaired", lambda: str(stack.rows(unrepaired))
    )
    eventually(
        lambda: stack.do(_running(stack.temporal)) == 0, "workflows go on", lambda: str(stack.rows(active))
    )


async def _running(client: Client) -> int:
    return (await client.count_workflows("ExecutionStatus = 'Running'")).count


def check_whole(stack: RunningStack) -> None:
    """The stack at rest is one truth."""
    wait_quiet(stack)
    check_cards(stack)
    check_leases(stack)
    check_versions(stack)
    check_uploads(stack)
    check_deployments(stack)
    check_audit(stack)


def check_cards(stack: RunningStack) -> None:
    """Who is routed to is exactly what the engines hold, in the life that they have."""
    cards = stack.rows("SELECT engine, incarnation, served_name, digest, int_id, state FROM cards")
    truth, lives = set(), set()
    for engine in stack.engines:
        state = stack.engine_state(engine)
        lives.add((engine, state["incarnation"]))
        assert state["foreign_int_ids"] == [], f"{engine} holds what nobody loaded"
        for one in state["adapters"]:
            assert (one["resident"], one["state"]) == (True, "serving"), one
            truth.add((engine, state["incarnation"], one["served_name"], one["digest"], one["int_id"]))
    assert {card[:5] for card in cards if card[5] == "serving"} == truth
    stray = [card for card in cards if card[5] != "serving" and (card[5] != "lost" or card[:2] in lives)]
    assert stray == [], "cards that stand between two states"


def check_leases(stack: RunningStack) -> None:
    """The files that each host keeps for its engine's present life are those that the engine uses."""
    for number, engine in enumerate(stack.engines, start=1):
        state = stack.engine_state(engine)
        cache = stack.state / "agents" / f"agent-{number}" / "cache"
        pinned = {
            path.parent.parent.name.replace("+", "/")
            for path in cache.rglob(f"*.leases/{engine}@{state['incarnation']}")
        }
        assert pinned == {one["served_name"] for one in state["adapters"]}, engine


def check_versions(stack: RunningStack) -> None:
    """Every ready version has its bytes and its pointer; no pointer stands without a row."""
    keys = stack.objects()
    rows = stack.rows("SELECT adapter, version, digest, state FROM versions")
    assert {row[3] for row in rows} <= {"ready", "failed"}
    pointers = {f"versions/{name.replace('/', '+')}/{number}.json": state for name, number, _, state in rows}
    assert {key for key in keys if key.startswith("versions/")} <= set(pointers)
    assert {key for key, state in pointers.items() if state == "ready"} <= keys
    for _, _, digest, state in rows:
        folder = f"artifacts/{digest.replace(':', '-')}"
        files = {f"{folder}/{name}" for name in ("manifest.json", "adapter_model.safetensors")}
        assert state != "ready" or files <= keys


def check_uploads(stack: RunningStack) -> None:
    """With no publish under way, all that was uploaded for one is gone."""
    assert {key for key in stack.objects() if key.startswith("uploads/")} == set()
    rows = stack.rows("SELECT id, state, operation FROM uploads WHERE state = 'publishing'")
    assert rows == []


def check_deployments(stack: RunningStack) -> None:
    """What is wanted is what has cards; the traffic's shares are whole (none is left by a forced unload)."""
    weights = "SELECT adapter, pool, sum(weight) FROM deployment_versions GROUP BY adapter, pool"
    assert {int(total) for _, _, total in stack.rows(weights)} <= {0, 100}
    wanted = set(stack.rows("SELECT adapter, pool, version FROM deployment_versions"))
    assert wanted == set(stack.rows("SELECT adapter, pool, version FROM cards"))


def check_audit(stack: RunningStack) -> None:
    """The chain has no gap and no false link, by what the API gives and by the database's own hash.

    From where the last check ended: what was seen then must still be there.
    """
    seq, before = stack.chain_end
    events = list(reversed(stack.newest("/v1/audit", until=lambda event: event["seq"] <= seq)))
    if seq:
        known = events.pop(0)
        assert (known["seq"], known["hash"]) == (seq, before), "what stood in the audit is not there any more"
    assert [event["seq"] for event in events] == list(range(seq + 1, seq + 1 + len(events)))
    for event in events:
        assert event["previous_hash"] == before, f"event {event['seq']} does not follow the one before"
        before = event["hash"]
    wrong = f"SELECT seq FROM audit_events e WHERE seq > {seq} AND hash <> audit_event_hash(e)"
    assert stack.rows(wrong) == []
    stack.chain_end = (seq + len(events), before)
