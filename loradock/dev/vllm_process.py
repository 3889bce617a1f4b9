"""A vLLM server on the CPU with our extension, small and quick to start."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from loradock.core.errors import LoradockError
from loradock.dev.child import ChildSpec
from loradock.dev.engine_environment import EngineEnvironment
from loradock.dev.probes import http_answers

EXTENSION = "loradock_vllm"
MAX_LORAS = 4
MAX_LORA_RANK = 16

_QUICK = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_TARGET_DEVICE": "cpu",
}


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """How one engine is started.

    Attributes:
        model: folder of the base model.
        model_name: what the engine calls it.
        token_file: holds the extension's bearer token.
        cache: folder for the engine's caches.
        extension: folder to put on the engine's import path, see `extension_folder`.
        temporary: folder for the engine's sockets and scratch files; a short path.
        stages_loads: whether its workers have our part too, which loads adapters beside the engine's steps.
        arguments: more of vLLM's own options.
        ranks: data parallel ranks; vLLM starts as many API server processes.
        variables: more environment variables.
        stock: without anything of ours; adapters change by vLLM's own routes.
    """

    name: str
    port: int
    model: Path
    model_name: str
    token_file: Path
    cache: Path
    extension: Path
    temporary: Path
    stages_loads: bool = True
    arguments: tuple[str, ...] = ()
    ranks: int = 1
    variables: Mapping[str, str] = field(default_factory=dict)
    stock: bool = False


def vllm_spec(environment: EngineEnvironment, options: VllmOptions) -> ChildSpec:
    """The server's process."""
    command = [str(environment.python), "-P", *_server(options.ranks)]
    command += ["--host", "127.0.0.1", "--port", str(options.port)]
    command += ["--model", str(options.model), "--served-model-name", options.model_name]
    if not options.stock:
        command += ["--middleware", f"{EXTENSION}.LoradockMiddleware"]
    if options.stages_loads and not options.stock:
        command += ["--worker-extension-cls", f"{EXTENSION}.worker.WorkerExtension"]
    command += ["--enable-lora", "--max-loras", str(MAX_LORAS), "--max-cpu-loras", "8"]
    command += ["--max-lora-rank", str(MAX_LORA_RANK), "--enforce-eager", "--dtype", "float32"]
    command += ["--max-model-len", "256", "--max-num-seqs", "8", "--kv-cache-memory-bytes", str(64 * 1024**2)]
    command += options.arguments
    return ChildSpec(
        name=options.name,
        command=tuple(command),
        env={
            **environment.variables(options.cache),
            **_QUICK,
            "PYTHONPATH": str(options.extension),
            "TMPDIR": str(options.temporary),
            **(
                {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"}
                if options.stock
                else {"LORADOCK_EXTENSION_TOKEN_FILE": str(options.token_file)}
            ),
            **options.variables,
        },
        ready=lambda: http_answers(f"http://127.0.0.1:{options.port}/health"),
        timeout=300.0 * options.ranks,
        stop_timeout=8.0,
    )


def _server(ranks: int) -> list[str]:
    """The program: one process, which starts a good deal sooner, or vLLM's own command."""
    if ranks == 1:
        return ["-m", "vllm.entrypoints.launchers.api_server.entry"]
    return [str(Path(__file__).with_name("vllm_serve.py")), "--data-parallel-size", str(ranks)]


def extension_folder(state: Path) -> Path:
    """A folder with our extension and `engine_site.py` alone, to be put on the engine's import path.

    Never the folder that the extension is installed in: that could be the service's whole environment.

    Raises:
        LoradockError: `stack_failed` when the extension is not installed beside the service.
    """
    folder = state / "extension"
    folder.mkdir(parents=True, exist_ok=True)
    _link(folder / EXTENSION, _extension_package())
    _link(folder / "sitecustomize.py", Path(__file__).with_name("engine_site.py").resolve())
    return folder


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink() or link.readlink() != target:
        link.unlink(missing_ok=True)
        link.symlink_to(target)


def _extension_package() -> Path:
    spec = importlib.util.find_spec(EXTENSION)
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).resolve().parent
    checkout = Path(__file__).resolve().parents[2] / "vllm_extension" / EXTENSION
    if checkout.is_dir():
        return checkout
    raise LoradockError(
        "stack_failed", f"{EXTENSION} is not installed: install vllm_extension/ beside Loradock"
    )
