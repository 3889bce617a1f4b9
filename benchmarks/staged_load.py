"""What loads do to running answers: none, vLLM's own add_lora, and staged loads side by side on one engine.

    PYTHONPATH=<vllm's folder>:vllm_extension:benchmarks python benchmarks/staged_load.py --out DIR [--rounds 5]

Needs vLLM and a GPU, and of Loradock only the folder `vllm_extension`. Makes a model of Llama-8B's shape with random weights
and adapters of rank 16 and 64, starts one `vllm serve` with the extension, and writes `staged_load.json` and
`staged_load.md` to DIR. `--phases` picks some of `check,idle,traffic`; `--tiny` tries it all on a CPU in two minutes.

In each round the kinds follow one another, in another order every time, so that what else changes meets all of them.
"""

import argparse
import asyncio
import gc
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TOKEN = "token-of-the-benchmark"
KINDS = ("add", "staged")
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class DirectLoads:
    """Runs inside the server: vLLM's own add_lora and remove_lora under `/direct/`, to compare with."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or not scope["path"].startswith("/direct/"):
            await self._app(scope, receive, send)
            return
        from starlette.requests import Request  # noqa: PLC0415
        from starlette.responses import JSONResponse  # noqa: PLC0415
        from vllm.lora.request import LoRARequest  # noqa: PLC0415

        body, state = await Request(scope, receive).json(), scope["app"].state
        engine, models = state.engine_client, state.openai_serving_models
        if scope["path"] == "/direct/load":
            request = LoRARequest(lora_name=body["name"], lora_int_id=body["int_id"], lora_path=body["path"])
            done = await engine.add_lora(request)
            models.lora_requests[body["name"]] = request
        else:
            done = await engine.remove_lora(models.lora_requests.pop(body["name"]).lora_int_id)
        await JSONResponse({"done": done})(scope, receive, send)


@dataclass(frozen=True)
class Shape:
    """A model's and its adapters' measures."""

    hidden: int = 4096
    layers: int = 32
    intermediate: int = 14336
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    vocabulary: int = 128256
    positions: int = 131072
    dtype: str = "bfloat16"
    ranks: tuple[int, int] = (16, 64)
    adapters: int = 4

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Input and output width of every module."""
        wide, narrow = self.heads * self.head_dim, self.kv_heads * self.head_dim
        hidden, inner = self.hidden, self.intermediate
        outputs = (wide, narrow, narrow, hidden, inner, inner, hidden)
        inputs = (hidden, hidden, hidden, wide, hidden, hidden, inner)
        return dict(zip(MODULES, zip(inputs, outputs, strict=True), strict=True))


TINY = Shape(128, 2, 256, 4, 2, 32, 1000, 2048, "float32", (8, 16), 2)


@dataclass(frozen=True)
class Adapter:
    """A folder with random weights, whose name carries a digest as the extension wants it."""

    rank: int
    path: Path
    digest: str
    megabytes: float


def make_model(shape: Shape, folder: Path) -> Path:
    """Configuration and tokenizer; the weights are vLLM's dummies."""
    from tokenizers import Tokenizer, models, pre_tokenizers  # noqa: PLC0415
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.intermediate,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "torch_dtype": shape.dtype,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2} | {f"w{number}": number for number in range(3, 1000)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    ).save_pretrained(folder)
    return folder


def make_adapter(shape: Shape, rank: int, number: int, root: Path) -> Adapter:
    """One adapter of every module; its weights outweigh the base's, so that answers tell adapters apart."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    digest = hashlib.sha256(f"{shape}-{rank}-{number}".encode()).hexdigest()
    folder = root / f"r{rank}-{number}" / f"sha256-{digest}"
    weights = folder / "adapter_model.safetensors"
    if not weights.exists():
        folder.mkdir(parents=True)
        random_numbers = torch.Generator().manual_seed(1000 * rank + number)
        dtype, tensors = getattr(torch, shape.dtype), {}
        for layer in range(shape.layers):
            for module, (inputs, outputs) in shape.sizes().items():
                part = "self_attn" if module in MODULES[:4] else "mlp"
                stem = f"base_model.model.model.layers.{layer}.{part}.{module}"
                for letter, size in (("A", (rank, inputs)), ("B", (outputs, rank))):
                    values = torch.randn(size, generator=random_numbers)
                    # Strong enough to outweigh the dummy weights, whose norms are near zero too.
                    values *= (2 / (rank * inputs) ** 0.5) ** 0.5
                    tensors[f"{stem}.lora_{letter}.weight"] = values.to(dtype)
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": 2 * rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(MODULES),
            "base_model_name_or_path": "base",
        }
        (folder / "adapter_config.json").write_text(json.dumps(config))
        save_file(tensors, weights)
    return Adapter(rank, folder, f"sha256:{digest}", weights.stat().st_size / 1e6)


def serve(shape: Shape, model: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """Start the engine."""
    tiny = shape is TINY
    if tiny:
        command = [
            "-m",
            "vllm.entrypoints.launchers.api_server.entry",
            "--model",
            str(model),
            "--enforce-eager",
        ]
        command += [
            "--max-model-len",
            "512",
            "--max-num-seqs",
            "8",
            "--kv-cache-memory-bytes",
            str(64 * 1024**2),
        ]
    else:
        command = ["-m", "vllm.entrypoints.cli.main", "serve", str(model), "--max-model-len", "4096"]
        command += ["--gpu-memory-utilization", "0.6"]
    command += ["--served-model-name", "base", "--load-format", "dummy", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--uvicorn-log-level", "warning", "--dtype", shape.dtype]
    command += ["--enable-lora", "--max-loras", "8", "--max-cpu-loras", "16"]
    command += ["--max-lora-rank", str(max(shape.ranks))]
    command += ["--middleware", "loradock_vllm.LoradockMiddleware", "--middleware", "staged_load.DirectLoads"]
    command += ["--worker-extension-cls", "loradock_vllm.worker.WorkerExtension"]
    environment = {
        **os.environ,
        "LORADOCK_EXTENSION_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
    }
    if tiny:
        environment |= {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "VLLM_TARGET_DEVICE": "cpu",
        }
    else:
        environment.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    return subprocess.Popen(
        [sys.executable, *command],
        stdout=log.open("wb"),
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,
    )


class Client:
    """Loads, unloads and prompts over HTTP, each timed."""

    def __init__(self, session: Any, url: str) -> None:
        self._session = session
        self._url = url
        self._incarnation = ""
        self._numbers = iter(range(1, 1_000_000))

    async def state(self) -> dict[str, Any]:
        """The extension's state; remembers the incarnation."""
        found = await self._send("GET", "/loradock/v1/state", None)
        self._incarnation = found["incarnation"]
        return found

    async def load(self, kind: str, adapter: Adapter) -> tuple[str, float]:
        """Load; returns the served name and the seconds."""
        number = next(self._numbers)
        name, path = f"bench{number}@1", str(adapter.path)
        if kind == "add":
            body = {"name": name, "int_id": number, "path": path}
            return name, await self._timed("/direct/load", body)
        body = {**self._common(name), "int_id": number, "path": path, "digest": adapter.digest}
        return name, await self._timed("/loradock/v1/load", body)

    async def unload(self, kind: str, name: str) -> float:
        """Truly unload; returns the seconds."""
        if kind == "add":
            return await self._timed("/direct/unload", {"name": name})
        body = {**self._common(name), "drain_seconds": 10, "on_timeout": "abort"}
        return await self._timed("/loradock/v1/unload", body)

    async def answer(self, model: str, prompt: str, tokens: int) -> str:
        """A greedy answer."""
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
        answer = await self._send("POST", "/v1/completions", {**body, "logprobs": 0})
        return " ".join(answer["choices"][0]["logprobs"]["tokens"])

    async def stream(self, model: str, prompt: str, tokens: int, gaps: list[float]) -> None:
        """A streamed answer; notes the gap before each token but the first."""
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
        last = 0.0
        async with self._session.post(
            f"{self._url}/v1/completions", json={**body, "stream": True}
        ) as response:
            assert response.status == 200, (response.status, await response.text())
            async for line in response.content:
                if line.startswith(b"data: ") and b"[DONE]" not in line:
                    now = time.perf_counter()
                    if last:
                        gaps.append(now - last)
                    last = now

    def _common(self, name: str) -> dict[str, Any]:
        run = {"operation": "bench", "run_id": "bench", "epoch": 1}
        return {"served_name": name, "incarnation": self._incarnation, **run}

    async def _timed(self, path: str, body: dict[str, Any]) -> float:
        began = time.perf_counter()
        await self._send("POST", path, body)
        return time.perf_counter() - began

    async def _send(self, method: str, path: str, body: Any) -> Any:
        headers = {"authorization": f"Bearer {TOKEN}"}
        async with self._session.request(method, self._url + path, json=body, headers=headers) as response:
            assert response.status == 200, (path, response.status, await response.text())
            return await response.json()


@dataclass
class Window:
    """What one stretch of traffic saw, in milliseconds."""

    round: int
    kind: str
    rank: int
    gaps: list[float]
    loads: list[float]
    unloads: list[float]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """The figures."""
        return {
            "round": self.round,
            "kind": self.kind,
            "rank": self.rank,
            "tokens": len(self.gaps),
            "tokens_per_second": round(len(self.gaps) / self.seconds),
            "gap_ms": percentiles(self.gaps),
            "loads": len(self.loads),
            "load_ms": percentiles(self.loads),
            "unload_ms": percentiles(self.unloads),
        }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p99, p99.9 and the highest, in milliseconds; empty without values."""
    if not seconds:
        return {}
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3, 2)

    return {"p50": at(0.5), "p99": at(0.99), "p99.9": at(0.999), "max": at(1.0)}


def prompt(words: int) -> str:
    """Random words of the vocabulary."""
    return " ".join(f"w{random.randint(3, 999)}" for _ in range(words))


@dataclass
class Bench:
    """All phases on one running engine."""

    client: Client
    adapters: dict[int, list[Adapter]]
    options: argparse.Namespace
    gaps: list[float] = field(default_factory=list)

    async def check(self) -> dict[str, Any]:
        """Each adapter's answers after add_lora against those after a staged load, one prompt at a time."""
        random.seed(7)
        prompts = [prompt(17 if number % 2 else 40) for number in range(6)]
        base = [await self.client.answer("base", text, 16) for text in prompts]
        told_apart, compared, differ, noise = {tuple(base)}, 0, [], 0
        for adapter in [chosen for found in self.adapters.values() for chosen in found[:2]]:
            given = []
            # add_lora twice: how far the device's own order of sums changes an answer.
            for kind in ("add", "add", "staged"):
                name, _ = await self.client.load(kind, adapter)
                given.append([await self.client.answer(name, text, 16) for text in prompts])
                await self.client.unload(kind, name)
            told_apart.add(tuple(given[2]))
            compared += len(prompts)
            noise += sum(one != other for one, other in zip(given[0], given[1], strict=True))
            differ += [
                {"rank": adapter.rank, "prompt": text, "add": one, "staged": other}
                for text, one, other in zip(prompts, given[0], given[2], strict=True)
                if one != other
            ]
        return {
            "answers": compared,
            "different": differ,
            "different_after_add_lora_again": noise,
            "distinct_models": len(told_apart),
            "example": {"base": base[0], "adapter": given[2][0]},
        }

    async def idle(self) -> list[dict[str, Any]]:
        """Loads and unloads on an engine without requests."""
        found = []
        for rank, adapters in self.adapters.items():
            for kind in KINDS:
                loads, unloads = [], []
                # The first round fills the file cache and the allocators.
                for again in range(3):
                    for adapter in adapters:
                        name, seconds = await self.client.load(kind, adapter)
                        unload = await self.client.unload(kind, name)
                        if again:
                            loads.append(seconds)
                            unloads.append(unload)
                found.append(
                    {
                        "kind": kind,
                        "rank": rank,
                        "load_ms": percentiles(loads),
                        "unload_ms": percentiles(unloads),
                    }
                )
        return found

    async def traffic(self) -> list[dict[str, Any]]:
        """Rounds of windows under streams."""
        windows = []
        resident, _ = await self.client.load("staged", self.adapters[min(self.adapters)][0])
        async with self._streams(["base", resident]):
            await asyncio.sleep(self.options.window)
            for kind in KINDS:
                for rank in self.adapters:
                    await self._window(-1, kind, rank, seconds=self.options.window / 3)
            order = [("none", 0)] + [(kind, rank) for kind in KINDS for rank in self.adapters]
            for number in range(self.options.rounds):
                for kind, rank in order:
                    window = await self._window(number, kind, rank, seconds=self.options.window)
                    windows.append(window.summary())
                    print(json.dumps(windows[-1]), flush=True)
                order = order[2:] + order[:2]
        await self.client.unload("staged", resident)
        return windows

    @asynccontextmanager
    async def _streams(self, models: list[str]) -> AsyncIterator[None]:
        async def user() -> None:
            while not stop.is_set():
                model = random.choice(models)
                await self.client.stream(model, prompt(64), self.options.tokens, self.gaps)

        stop = asyncio.Event()
        users = [asyncio.create_task(user()) for _ in range(self.options.streams)]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*users)

    async def _window(self, number: int, kind: str, rank: int, *, seconds: float) -> Window:
        loads: list[float] = []
        unloads: list[float] = []
        await asyncio.sleep(0.5)
        gc.collect()
        self.gaps.clear()
        began = time.perf_counter()
        turn = 0
        while time.perf_counter() - began < seconds:
            if kind == "none":
                await asyncio.sleep(0.1)
                continue
            adapters = self.adapters[rank]
            name, load = await self.client.load(kind, adapters[turn % len(adapters)])
            await asyncio.sleep(self.options.pause)
            unloads.append(await self.client.unload(kind, name))
            loads.append(load)
            await asyncio.sleep(self.options.pause)
            turn += 1
        return Window(number, kind, rank, list(self.gaps), loads, unloads, time.perf_counter() - began)


def compare(windows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By kind and rank: medians over the rounds, and the median of each round's ratio to its own quiet window."""
    quiet = {window["round"]: window for window in windows if window["kind"] == "none"}
    found = []
    for kind, rank in dict.fromkeys((window["kind"], window["rank"]) for window in windows):
        mine = [window for window in windows if (window["kind"], window["rank"]) == (kind, rank)]
        row: dict[str, Any] = {"kind": kind, "rank": rank, "rounds": len(mine)}
        for name in ("gap_ms", "load_ms", "unload_ms"):
            keys = mine[0][name]
            row[name] = {
                key: round(statistics.median(window[name][key] for window in mine), 2) for key in keys
            }
        row["ratio"] = {
            key: round(
                statistics.median(w["gap_ms"][key] / quiet[w["round"]]["gap_ms"][key] for w in mine), 3
            )
            for key in ("p50", "p99", "p99.9", "max")
        }
        row["tokens_per_second"] = statistics.median(window["tokens_per_second"] for window in mine)
        found.append(row)
    return found


def markdown(result: dict[str, Any]) -> str:
    """The figures for RESULTS.md."""
    lines = [
        f"{result['device']}, vLLM {result['vllm']}, {result['streams']} streams; staged: {result['staged']}",
        "",
    ]
    if "compared" in result:
        lines += [
            "| under traffic (medians of the rounds) | load p50 | unload p50 | gap p50 | p99 | p99.9 | max "
            "| p99 to quiet | p99.9 to quiet | tokens/s |",
            "| --- " * 10 + "|",
        ]
        for row in result["compared"]:
            gap, ratio, name = row["gap_ms"], row["ratio"], f"{row['kind']} r{row['rank']}"
            lines.append(
                f"| {'no loads' if row['kind'] == 'none' else name} | {row['load_ms'].get('p50', '–')} "
                f"| {row['unload_ms'].get('p50', '–')} | {gap['p50']} | {gap['p99']} | {gap['p99.9']} | {gap['max']} "
                f"| {ratio['p99']} | {ratio['p99.9']} | {row['tokens_per_second']} |"
            )
        lines.append("")
    if "idle" in result:
        lines += ["| idle engine, ms | load p50 | load max | unload p50 |", "| --- | --- | --- | --- |"]
        for row in result["idle"]:
            load = row["load_ms"]
            lines.append(
                f"| {row['kind']} r{row['rank']} | {load['p50']} | {load['max']} | {row['unload_ms']['p50']} |"
            )
        lines.append("")
    if "check" in result:
        check = result["check"]
        lines.append(
            f"Answers after staged loads that differ from those after add_lora: {len(check['different'])} of "
            f"{check['answers']} ({check['different_after_add_lora_again']} differ after add_lora twice; "
            f"{check['distinct_models']} models told apart, the base among them)."
        )
    return "\n".join(lines) + "\n"


async def wait_until_healthy(session: Any, url: str, engine: subprocess.Popen[bytes], seconds: float) -> None:
    """Until the server answers.

    Raises:
        RuntimeError: it ended, or took too long.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end and engine.poll() is None:
        try:
            async with session.get(f"{url}/health") as response:
                if response.status == 200:
                    return
        except OSError:
            pass
        await asyncio.sleep(0.5)
    raise RuntimeError(f"the engine did not come up (exit {engine.poll()})")


async def measure(
    options: argparse.Namespace, shape: Shape, adapters: dict[int, list[Adapter]], engine: Any
) -> Any:
    """Run the phases that were asked for."""
    import aiohttp  # noqa: PLC0415

    url = f"http://127.0.0.1:{options.port}"
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        began = time.monotonic()
        await wait_until_healthy(session, url, engine, options.start_seconds)
        client = Client(session, url)
        bench = Bench(client, adapters, options)
        for _ in range(4):
            await client.answer("base", prompt(16), 16)
        state = await client.state()
        print(
            f"engine up after {time.monotonic() - began:.0f} s",
            state["capabilities"],
            state["limitations"],
            flush=True,
        )
        result: dict[str, Any] = {
            "device": state["device"],
            "vllm": state["engine"]["version"],
            "staged": "staged_load" in state["capabilities"],
            "limitations": state["limitations"],
            "streams": options.streams,
            "window_seconds": options.window,
            "pause_seconds": options.pause,
            "tokens": options.tokens,
            "settings": {
                key: value for key, value in os.environ.items() if key.startswith("LORADOCK_EXTENSION_ST")
            },
            "adapters_mb": {rank: round(found[0].megabytes, 1) for rank, found in adapters.items()},
        }
        gc.disable()
        for phase in options.phases.split(","):
            began = time.monotonic()
            result[phase] = await getattr(bench, phase)()
            if phase == "traffic":
                result["compared"] = compare(result[phase])
            print(f"{phase}: {time.monotonic() - began:.0f} s", flush=True)
            save(options.out, result)
        return result


def save(folder: Path, result: dict[str, Any]) -> None:
    """Write what is known so far, so that a command that is cut off leaves something."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "staged_load.json").write_text(json.dumps(result, indent=1))
    (folder / "staged_load.md").write_text(markdown(result))


def main() -> int:
    """Make what is needed, start the engine, measure, end the engine."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "staged_load")))
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "staged_load_bench")
    parser.add_argument("--phases", default="check,idle,traffic")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--window", type=float, default=6.0, help="seconds of one window")
    parser.add_argument("--pause", type=float, default=0.2, help="seconds between a load and an unload")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128, help="of each streamed answer")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--start-seconds", type=float, default=330)
    parser.add_argument(
        "--tiny", action="store_true", help="a tiny model on the CPU, to try the benchmark itself"
    )
    options = parser.parse_args()
    shape = TINY if options.tiny else Shape()
    work = options.work / ("tiny" if options.tiny else "full")
    options.out.mkdir(parents=True, exist_ok=True)
    model = make_model(shape, work / "model")
    log = options.out / "serve.log"
    # Up while the adapters are written: that takes a while too.
    engine = serve(shape, model, options.port, log)
    try:
        adapters = {
            rank: [make_adapter(shape, rank, number, work) for number in range(shape.adapters)]
            for rank in shape.ranks
        }
        result = asyncio.run(measure(options, shape, adapters, engine))
        print(markdown(result))
    finally:
        engine.terminate()
        try:
            engine.wait(20)
        except subprocess.TimeoutExpired:
            engine.kill()
        text = log.read_text(errors="replace")
        lines = [line for line in text.splitlines() if "oradock" in line or "staged" in line]
        print("\n".join(lines[:12] + lines[-6:]), text[-1500:], sep="\n---\n")
    check = result.get("check", {"different": [], "different_after_add_lora_again": 0})
    return 1 if len(check["different"]) > check["different_after_add_lora_again"] else 0


if __name__ == "__main__":
    sys.exit(main())
