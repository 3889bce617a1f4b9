"""Signatures through the whole service: refused, warned of, verified, shown, audited, and asked for again at a load."""

from pathlib import Path

import pytest

from tests.artifacts.signers import make_key, sign
from tests.system.command_line import Cli
from tests.system.conftest import MakeAdapter
from tests.system.running import RunningStack, source

pytestmark = pytest.mark.slow


def test_only_what_a_trusted_key_signed_is_published_where_it_is_required(
    stack: RunningStack, make: MakeAdapter, name: str, signature_policy: Path, tmp_path: Path
) -> None:
    adapter, folder = f"require-{name}", make()
    key = signature_policy.parent / "release.key"
    make_key(tmp_path / "mallory.key")
    before = stack.snapshot()

    def publish() -> dict[str, object]:
        return stack.run(f"/v1/adapters/{adapter}/versions", {"source": source(folder)})

    def refused() -> str:
        ended = publish()
        assert ended["state"] == "failed"
        error = ended["error"]
        assert isinstance(error, dict)
        assert error["details"]["signature"]["status"] in error["code"].replace("missing", "unsigned")
        return str(error["code"])

    assert refused() == "signature_missing"
    sign(folder, tmp_path / "mallory.key")
    assert refused() == "signature_untrusted"
    sign(folder, key)
    config = folder / "adapter_config.json"
    text = config.read_text()
    config.write_text(text + " ")
    assert refused() == "signature_invalid"
    assert stack.snapshot() == before

    config.write_text(text)
    done = publish()
    assert done["state"] == "succeeded", done
    stack.load(adapter)
    cli = Cli(stack)
    found = stack.get(f"/v1/adapters/{adapter}/versions/1")["signature"]
    assert (found["status"], found["policy"], found["operation"]) == ("verified", "require", done["id"])
    shown = cli.ok("show", f"{adapter}@1")
    assert "verified" in shown
    assert found["signer"] in shown
    assert ("version.signature_checked", "ok") in stack.audited(str(done["id"]))
    assert (
        cli.json("inspect", str(folder), "--key", str(key.with_suffix(".pub")))["signature"]["status"]
        == "verified"
    )

    # Verified once is not a pass for the next publish, and the refusal takes nothing from the record.
    (folder / "model.sig").unlink()
    assert refused() == "signature_missing"
    assert stack.get(f"/v1/adapters/{adapter}/versions/1")["signature"] == found


def test_a_warning_is_published_and_shown_and_a_later_signature_takes_its_place(
    stack: RunningStack, make: MakeAdapter, name: str, signature_policy: Path
) -> None:
    adapter, folder = f"warn-{name}", make()
    cli = Cli(stack)
    out = cli.ok("publish", adapter, str(folder))
    assert "signature unsigned: there is no model.sig" in out
    assert stack.get(f"/v1/adapters/{adapter}/versions/1")["signature"]["status"] == "unsigned"
    stack.load(adapter)

    sign(folder, signature_policy.parent / "release.key")
    again = stack.publish(adapter, folder)
    assert again["result"]["already_published"]
    assert again["result"]["note"] == ""
    assert stack.get(f"/v1/adapters/{adapter}/versions/1")["signature"]["status"] == "verified"
