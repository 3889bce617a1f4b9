"""The one error tree. Every failure that can be foreseen has a code here, a status and a remedy.

A code is stable: scripts, gates and the Temporal UI (where it is the failure's type) rely on it. `docs/errors.md` is made from
this catalog and a test keeps the two equal.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

MESSAGE_LIMIT: Final = 2000
"""Characters of a message that are kept: a failure over Temporal's payload limit (2 MiB) would be retried for ever."""


class Fault(StrEnum):
    """Who has to act."""

    CALLER = "caller"
    """The request, the artifact or a setting must change: the same call again fails again."""
    STATE = "state"
    """Something else is in the way now: the same call may go through later."""
    SYSTEM = "system"
    """A part does not answer or broke: retried by itself where that can help."""


@dataclass(frozen=True, slots=True)
class ErrorSpec:
    """One line of the catalog.

    Attributes:
        status: HTTP status when the API can tell at once.
        fault: who has to act.
        title: what it means, one sentence.
        remedy: what to do about it, one sentence.
        retryable: whether an activity that meets it is tried again by Temporal.
    """

    status: int
    fault: Fault
    title: str
    remedy: str
    retryable: bool = False


def _caller(status: int, title: str, remedy: str) -> ErrorSpec:
    return ErrorSpec(status, Fault.CALLER, title, remedy)


def _state(status: int, title: str, remedy: str) -> ErrorSpec:
    return ErrorSpec(status, Fault.STATE, title, remedy)


def _system(status: int, title: str, remedy: str, *, retryable: bool = True) -> ErrorSpec:
    return ErrorSpec(status, Fault.SYSTEM, title, remedy, retryable)


CATALOG: Final[dict[str, ErrorSpec]] = {
    # Requests
    "invalid_request": _caller(422, "The request does not have the form that the call expects.", "Compare it with the OpenAPI page at /docs; the message names the field."),
    "unsupported_media_type": _caller(415, "The body's Content-Type is not one that the call takes.", "Send JSON with 'Content-Type: application/json'."),
    "invalid_name": _caller(422, "The name breaks the rule for adapter, alias, engine or pool names.", "Use letters, digits, '.', '_' and '-', at most 63 characters, starting with a letter or digit; adapters may have one 'org/' in front."),
    "unauthorized": _caller(401, "There is no token, or a wrong one.", "Send 'Authorization: Bearer <token>' with a token that this service knows."),
    "forbidden": _caller(403, "The token does not allow this call.", "Use a token with the right for it."),
    "not_found": _caller(404, "There is no such page.", "See the paths at /docs."),
    "method_not_allowed": _caller(405, "The path exists, but not with this method.", "See the paths at /docs."),
    "adapter_not_found": _caller(404, "No adapter has this name.", "List the adapters with 'loradock ls'; publish it first."),
    "version_not_found": _caller(404, "The adapter has no such version.", "See 'loradock show NAME'."),
    "alias_not_found": _caller(404, "The adapter has no such alias.", "See 'loradock show NAME'."),
    "engine_not_found": _caller(404, "No engine has this id.", "See 'loradock ls engines'."),
    "pool_not_found": _caller(404, "No engine has ever joined this pool.", "See the pools in 'loradock ls engines'."),
    "pool_ambiguous": _caller(422, "More than one pool serves this base model.", "Name the pool in the request."),
    "operation_not_found": _caller(404, "There is no operation with this id.", "See 'loradock ops'."),
    "agent_not_found": _caller(404, "No agent has this id.", "The agent registers itself at its first lease; see its log."),
    "idempotency_key_reused": _caller(422, "This Idempotency-Key was used for another request.", "Use a new key for a new request."),
    "revision_mismatch": _state(412, "The thing was changed by somebody else in the meantime.", "Read it again, look at the change, and send the new revision in If-Match."),
    "adapter_busy": _state(409, "Another operation on this adapter is still running.", "Wait for the operation named in the answer, or abort it."),
    "version_not_ready": _state(409, "The version is not published, or its publish failed.", "Publish it again; 'loradock show NAME' gives the reason."),
    "version_not_loaded": _state(409, "No engine of the pool serves this version.", "Load it first."),
    "version_in_use": _state(409, "The version is still served somewhere.", "Unload it first."),
    "version_has_weight": _state(409, "The version takes traffic while another one is loaded.", "Move the traffic first (rollout), or repeat the call with force."),
    "base_model_mismatch": _caller(422, "The adapter belongs to another base model than the pool or the earlier versions.", "Choose the pool of its base model, or publish it under another name."),
    "base_model_not_found": _caller(404, "No config of this base model is known.", "Register it with 'loradock base add NAME CONFIG', or start an engine that serves it."),
    "base_config_invalid": _caller(422, "This is no base model's config.json.", "Give the config.json of the base model's own folder."),
    "base_model_unknown": _caller(422, "Nothing tells which base model the adapter is for.", "Give base_model with the first version."),
    "operation_ended": _state(409, "The operation has ended already.", "Start a new one."),
    "operation_not_retryable": _state(409, "The operation has not ended, left nothing to do again, or would undo what came after it.", "See it with 'loradock ops ID'; ask for the change anew if it is still wanted."),
    "too_many_requests": _state(429, "Too many operations are under way, and the queue is full.", "Try again after the time in Retry-After."),
    "request_too_large": _caller(413, "The request body is larger than this call takes.", "Send less; artifacts are published by their address, not in the body."),
    # Sources and artifacts
    "unsupported_scheme": _caller(422, "The source's address has a scheme that is not supported.", "Use file:// or s3://."),
    "invalid_source_uri": _caller(422, "The source's address is not well formed.", "Use file:///absolute/folder or s3://bucket/prefix, without credentials, query or fragment."),
    "source_not_allowed": _caller(403, "The source lies outside what this service may read.", "Put it under one of LORADOCK_FILE_ROOTS or in a bucket of LORADOCK_SOURCE_BUCKETS, or have these settings changed."),
    "source_not_found": _caller(422, "Nothing is at the source's address.", "Check the address; for file:// the folder must be on the orchestrator's disk."),
    "source_denied": _caller(422, "The source refused the service's credentials.", "Give the service's identity the right to read it."),
    "source_unavailable": _system(503, "The source did not answer, or broke off.", "It is retried; check the network and the store if it stays."),
    "source_changed": _caller(422, "The source changed while it was read.", "Publish from a folder that nobody writes to."),
    "source_too_large": _caller(422, "The source has more files or bytes than allowed.", "Publish the adapter's own files only, or raise the limit in the settings."),
    "source_timeout": _caller(422, "Reading the source took longer than allowed.", "Publish from a faster place, or raise LORADOCK_SOURCE_MAX_SECONDS."),
    "source_index_invalid": _caller(422, "The web folder's index.json is malformed.", "Write it as docs/sources.md says: path, size and sha256 of every file."),
    "archive_invalid": _caller(422, "The archive is damaged, or holds what an archive of an adapter must not.", "Pack the adapter's plain files with tar; no links, no '..', no absolute names."),
    "weights_missing": _caller(422, "The folder has no adapter_model.safetensors.", "Save the adapter with PEFT's save_pretrained (safetensors is its default)."),
    "config_missing": _caller(422, "The folder has no adapter_config.json.", "Publish the folder that PEFT's save_pretrained wrote."),
    "config_invalid": _caller(422, "adapter_config.json is not a PEFT LoRA config that can be served.", "The message names the field; save the adapter again with PEFT."),
    "pickle_refused": _caller(422, "The weights are a pickle (.bin, .pt): they can run code when opened.", "Convert them to safetensors and publish again."),
    "weights_corrupt": _caller(422, "The safetensors file is cut or damaged.", "Copy it again from where it was made; its size must fit its header."),
    "weights_not_finite": _caller(422, "The weights hold NaN or infinity, which would spoil other requests' answers too.", "The message names the tensor and the index; publish a checkpoint from before the training went wrong."),
    "adapter_not_supported": _caller(422, "The adapter uses something that the engine cannot serve.", "The message names it (for instance DoRA or modules_to_save); train without it."),
    "signature_missing": _caller(422, "The policy asks for a signature, and the folder has no model.sig.", "Sign the folder ('loradock sign FOLDER --key KEY') and publish it again."),
    "signature_invalid": _caller(422, "The signature does not hold for exactly the files that would be published.", "The message says why; copy the folder again from where it was signed, or sign it anew."),
    "signature_untrusted": _caller(422, "Nobody whom the policy trusts made the signature.", "Sign with a key or certificate of the policy's rule for this adapter, or have the signer added to it (docs/signatures.md)."),
    "signature_required": _state(409, "The policy asks for a trusted signature, and none is recorded for this version.", "Sign its folder and publish it again: the same bytes stay the same version; 'loradock show NAME@VERSION' tells what was found."),
    "signing_key_invalid": _caller(422, "The file is no key or certificate that can be used.", "Use PEM files; keys are elliptic curve keys (openssl ecparam -genkey -name prime256v1 -noout)."),
    "signatures_unavailable": _caller(500, "The packages that check and make signatures are not installed.", "Install Loradock with its extra: pip install '.[signatures]'."),
    "digest_mismatch": _caller(422, "The artifact's digest is not the expected one.", "Check which weights you meant; nothing was published."),
    "artifact_missing": _caller(422, "The artifact is not in the object store.", "Publish the version again: its bytes are restored under the same digest."),
    "artifact_corrupt": _system(500, "Bytes do not have the hash that the manifest names.", "They are fetched again; if it stays, the store's copy is damaged: publish the version again."),
    "artifact_conflict": _state(409, "The object store holds something else under this version.", "Never write into Loradock's prefix by hand; see the audit for who published it."),
    "store_unavailable": _system(503, "The object store did not answer.", "It is retried; check LORADOCK_OBJECT_STORE and the store itself."),
    "store_denied": _caller(503, "The object store refused the service's credentials.", "Check the credentials that the orchestrator and the agents run with."),
    "cache_full": _state(507, "The host's cache has no room for the adapter, even after all that may go was evicted.", "Unload something on the host, raise LORADOCK_CACHE_MAX_BYTES, or free space on its disk; the message names need and room."),
    "disk_full": _state(507, "There is no room on the disk.", "Free space on the host, or give the cache another folder."),
    "disk_error": _system(500, "The local disk refused to read or write.", "Check the permissions and the health of LORADOCK_CACHE_DIR and LORADOCK_STAGING_DIR."),
    "staging_lost": _system(503, "The orchestrator's staged copy is gone.", "It is fetched from the source again."),
    # Uploads
    "uploads_off": _caller(501, "This service takes no uploads.", "Give the API the object store (LORADOCK_OBJECT_STORE and its credentials, LORADOCK_UPLOADS not false); or publish from s3://, hf:// or https://, or with --no-upload from a folder on the orchestrator's disk."),
    "upload_not_found": _caller(404, "You have no upload session with this id.", "Repeat the publish: it begins a session, or goes on with one of yours."),
    "upload_expired": _state(410, "The upload session's time is over; what it held is removed.", "Repeat the publish: it begins a new session. LORADOCK_UPLOAD_SECONDS is how long one lasts."),
    "upload_ended": _state(409, "The upload session takes nothing more: it is complete, or its publish has begun.", "Repeat the publish from its folder: it finds what is there."),
    "upload_incomplete": _state(409, "Not all bytes of the upload are there.", "Repeat the publish: only what is missing is sent."),
    "upload_busy": _state(409, "Somebody else is sending this file, or has sent more of it already.", "Ask for the session, and go on from what it has."),
    "upload_mismatch": _caller(422, "What was sent is not what was declared.", "Publish the folder again; nothing may write to it meanwhile."),
    "upload_not_taken": _caller(422, "The upload declares files that no adapter has, or a path that is not plain.", "Declare the adapter's own files only, directly in the folder: 'loradock publish NAME FOLDER' does it."),
    # Engines
    "engine_unreachable": _system(503, "The engine does not answer.", "It is retried for a while; check the vLLM process on the host."),
    "engine_restarted": _state(409, "The engine is another process than the one the operation began with.", "Start the operation again."),
    "engine_lost": _state(409, "The engine's agent does not renew its lease.", "Check the agent and the host; the operation can be repeated when it is back."),
    "engine_in_use": _state(409, "The engine's agent renews its lease, or a card still says that it is served there.", "Stop its agent: some ten seconds later it can be removed; 'loradock ls cards --engine ID' shows what is in use."),
    "lease_lost": _state(409, "Another agent has taken this engine over.", "Nothing to do: this agent does nothing to it any more; see 'loradock ls engines' for whose it is."),
    "engine_unauthorized": _caller(503, "The engine refused the agent's token.", "Give agent and engine the same LORADOCK_ENGINE_TOKEN; for a stock vLLM, its --api-key as LORADOCK_ENGINE_API_KEY."),
    "engine_error": _system(502, "The engine failed inside.", "It is retried; see the engine's log."),
    "engine_not_supported": _caller(501, "This engine cannot do it (version, or started without LoRA).", "Start vLLM with --enable-lora in a version that the extension is tested with; without the extension, its agent with --engine-kind stock-vllm (docs/engines.md)."),
    "engine_not_verified": _state(502, "The engine says the adapter is loaded, but it does not answer for it.", "See the engine's log; the load was put back."),
    "incarnation_mismatch": _state(409, "The call meant another life of this engine.", "The engine restarted; start the operation again."),
    "stale_epoch": _state(409, "A later operation has taken over.", "Nothing to do: this call came too late and was refused."),
    "adapter_conflict": _state(409, "The engine serves something else under this name.", "Report it: served names are never reused; reconcile the engine."),
    "int_id_conflict": _state(409, "The engine's number of this version belongs to another adapter there.", "Unload the foreign adapter from the engine."),
    "no_free_slot": _state(409, "The engine has no usable slot left.", "Unload a version, or start the engine with more --max-loras."),
    "drain_timeout": _state(409, "Requests were still running when the drain's time was over.", "Give a longer drain, or force the unload."),
    "load_rate_limited": ErrorSpec(429, Fault.STATE, "The engine takes no load yet: its operator limits how fast they may follow each other.", "Nothing to do: it is tried again when the engine says; see LORADOCK_EXTENSION_LOADS_PER_MINUTE.", retryable=True),
    "adapter_not_loaded": _state(404, "The engine does not hold this adapter.", "Load it first."),
    "rank_too_high": _caller(422, "The adapter's rank is above the engine's --max-lora-rank.", "Start the engines with a higher --max-lora-rank, or train with a lower rank."),
    "adapter_corrupt": _caller(422, "The engine could not read the adapter's files.", "Publish the adapter again."),
    "wrong_base_model": _caller(422, "The adapter's shapes do not fit the engine's base model.", "Load it into the pool of its own base model."),
    "unexpected_modules": _caller(422, "The adapter has modules that the engine's model does not know.", "Train it for this base model."),
    "path_without_digest": _caller(400, "The path given to the engine does not carry the digest.", "Report it: paths are made by the agent's cache."),
    "unload_failed": _system(502, "The engine still holds the adapter after its removal.", "It is retried; restart the engine if it stays."),
    "no_engine_alive": _state(503, "No engine of the pool is alive.", "Start an engine with its agent; see 'loradock ls engines'."),
    "no_engine_matches": _state(409, "No engine of the pool has the labels that the request selects by.", "See the labels in 'loradock ls engines'; an agent is given them by --label."),
    "plan_outdated": _state(409, "The load would not do what was planned any more.", "Plan again, look at what changed, and send the new etag."),
    "too_many_engines": _caller(422, "One operation would touch more engines, or cards, than it may.", "Name some of the engines in each of several requests; unload one version at a time."),
    "not_enough_engines": _state(409, "Fewer engines became ready than the request asked for.", "See the operation's steps for what each engine said."),
    # Operations
    "agent_unreachable": _state(503, "The host's agent took no work in time.", "Start the agent on the host; the operation can be repeated."),
    "agent_timeout": _state(504, "The host's agent stopped in the middle of its work.", "Start the agent on the host; the operation can be repeated."),
    "operation_cancelled": _state(409, "The operation was cancelled and put back.", "Start it again if that was not meant."),
    "workflow_terminated": _state(409, "The operation's workflow was ended by hand in Temporal.", "What it had done was put back; start it again."),
    "operation_superseded": _state(409, "Another run has taken over this operation.", "Nothing to do: this run was refused."),
    "compensation_failed": _system(500, "Something could not be put back.", "See the operation's steps; the reconciler goes on with it.", retryable=False),
    # Parts of the service
    "database_unavailable": _system(503, "Postgres does not answer.", "It is retried; check LORADOCK_DATABASE_URL."),
    "schema_outdated": _system(503, "The database does not have the schema that this program needs.", "Run 'loradock migrate' with this version of the program."),
    "temporal_unavailable": _system(503, "Temporal does not answer.", "It is retried where an operation waits for it; check LORADOCK_TEMPORAL_ADDRESS."),
    "not_ready": _state(503, "A part of the service is not ready.", "See /readyz for which."),
    "stack_running": _state(409, "A stack is already running in this folder.", "Stop it first, or use it: .loradock/dev.json has its addresses."),
    "stack_failed": _system(500, "A part of the embedded stack did not start.", "The message ends with the part's last log lines.", retryable=False),
    "engine_environment_missing": _caller(500, "The environment with vLLM is not installed.", "Run 'make .venv-engine', or use '--engine simulated'."),
    "setting_invalid": _caller(500, "A setting is missing or malformed.", "The message names it; .env.example lists all of them."),
    "internal_error": _system(500, "Something failed that should not.", "Report it with the operation's id and the log."),
}  # fmt: skip


class LoradockError(Exception):
    """A failure with a code of the catalog.

    Args:
        code: a key of `CATALOG`.
        message: what happened, with the names that matter and never a secret; cut to `MESSAGE_LIMIT`.
        details: further facts for machines (JSON values only).
    """

    def __init__(self, code: str, message: str, /, **details: Any) -> None:
        if code not in CATALOG:
            raise ValueError(f"unknown error code {code!r}")
        self.code = code
        self.message = message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"
        self.details = details
        super().__init__(f"{code}: {self.message}")

    @property
    def spec(self) -> ErrorSpec:
        """The catalog's line for this code."""
        return CATALOG[self.code]

    @property
    def retryable(self) -> bool:
        """Whether trying the same again can help."""
        return self.spec.retryable
