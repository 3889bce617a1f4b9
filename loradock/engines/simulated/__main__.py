"""Run the simulated engine: `python -m loradock.engines.simulated --port 8001 --base-model base`.

With `--engines 1000` one process has so many of them, each under its name: `http://127.0.0.1:8001/engine-0001`; a file
for `loradock agent --engines-file` is written with `--engines-file`.

The extension's token comes from `LORADOCK_EXTENSION_TOKEN` or `LORADOCK_EXTENSION_TOKEN_FILE`, as with vLLM. With `--stock`
it is a vLLM without the extension, for `loradock agent --engine-kind stock-vllm`.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from loradock.engines.simulated.app import create_app
from loradock.engines.simulated.engine import Faults, SimulatedEngine
from loradock.engines.simulated.fleet import SimulatedFleet, engine_names
from loradock.engines.simulated.stock import SimulatedStockEngine, create_stock_app
from loradock_vllm.asgi import App
from loradock_vllm.errors import ConfigurationError
from loradock_vllm.settings import ExtensionSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal comes; returns the exit status: 2 when a setting is wrong."""
    options = _parser().parse_args(arguments)
    faults = Faults(
        load_seconds=options.load_seconds,
        load_jitter=options.load_jitter,
        token_seconds=options.token_seconds,
    )
    if options.stock:
        _serve(_stock(options, faults), options)
        return 0
    try:
        settings = ExtensionSettings.from_environment(os.environ)
    except ConfigurationError as error:
        sys.stderr.write(f"the simulated engine refuses to start: {error}\n")
        return 2
    _serve(_extended(options, faults, settings), options)
    return 0


def _serve(app: App, options: argparse.Namespace) -> None:
    uvicorn.run(app, host=options.host, port=options.port, log_level="info", lifespan="on", access_log=False)


def _stock(options: argparse.Namespace, faults: Faults) -> App:
    """One stock vLLM."""
    engine = SimulatedStockEngine(
        base_model=options.base_model,
        max_loras=options.max_loras,
        max_lora_rank=options.max_lora_rank,
        hidden_size=options.hidden_size,
        faults=faults,
    )
    return create_stock_app(engine, api_key=os.environ.get("VLLM_API_KEY") or None)


def _extended(options: argparse.Namespace, faults: Faults, settings: ExtensionSettings) -> App:
    """One engine with the extension, or many of them."""
    base_config = None if options.base_config is None else json.loads(options.base_config.read_text())

    def make() -> SimulatedEngine:
        return SimulatedEngine(
            base_model=options.base_model,
            max_loras=options.max_loras,
            max_lora_rank=options.max_lora_rank,
            hidden_size=options.hidden_size,
            faults=faults.model_copy(),
            base_config=base_config,
        )

    api_key = os.environ.get("VLLM_API_KEY") or None
    if options.engines is None:
        return create_app(make(), settings=settings, api_key=api_key)
    names = engine_names(options.engines)
    if options.engines_file is not None:
        lines = [f"{name}=http://{options.host}:{options.port}/{name}\n" for name in names]
        options.engines_file.write_text("".join(lines))
    return SimulatedFleet(names, make, settings, api_key)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loradock.engines.simulated", description="A simulated engine."
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--base-model", default="base", help="served name of the base model")
    parser.add_argument("--max-loras", type=int, default=4, help="adapter slots")
    parser.add_argument("--max-lora-rank", type=int, default=16)
    parser.add_argument(
        "--hidden-size", type=int, default=None, help="width that adapters must have; any if left out"
    )
    parser.add_argument(
        "--base-config",
        type=Path,
        default=None,
        metavar="FILE",
        help="config.json of the base model, to tell of in the state",
    )
    parser.add_argument(
        "--stock", action="store_true", help="a vLLM without the extension: vLLM's own routes for adapters"
    )
    parser.add_argument(
        "--engines", type=int, default=None, metavar="N", help="so many engines, each under its name's path"
    )
    parser.add_argument(
        "--engines-file", type=Path, default=None, metavar="FILE", help="write their ids and addresses here"
    )
    parser.add_argument("--load-seconds", type=float, default=0.0, help="how long a load takes")
    parser.add_argument(
        "--load-jitter", type=float, default=0.0, help="by which share of it a load is longer or shorter"
    )
    parser.add_argument(
        "--token-seconds", type=float, default=0.0, help="time between two tokens of an answer"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
