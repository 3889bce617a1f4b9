"""What people see while the stack starts, runs and stops."""

from rich.console import Console

from loradock.dev.dev_file import DevInfo
from loradock.dev.supervisor import PartEvent, PartState

_COLOURS = {
    PartState.READY: "green",
    PartState.DONE: "green",
    PartState.CRASHED: "red",
    PartState.STOPPED: "bright_black",
}


class Printer:
    """Prints lines, each marked when the engines are only simulated.

    Args:
        simulated: put `[simulated engine]` before every line.
    """

    def __init__(self, console: Console, *, simulated: bool = False) -> None:
        self._console = console
        self._prefix = "[simulated engine] " if simulated else ""

    def line(self, text: str = "", *, style: str | None = None) -> None:
        """Print a text; several lines are marked each."""
        for part in text.splitlines() or [""]:
            self._console.print(
                f"{self._prefix}{part}".rstrip(), style=style, markup=False, highlight=False, soft_wrap=True
            )

    def event(self, event: PartEvent) -> None:
        """Print what happened to a part, with its time."""
        text = f"{event.part:<13} {event.state.value:<8} {event.seconds:6.1f} s"
        self.line(f"{text}  {event.detail}" if event.detail else text, style=_COLOURS[event.state])

    def addresses(self, info: DevInfo) -> None:
        """Print where everything is."""
        rows = [("API", info.api), ("API docs", f"{info.api}/docs"), ("Temporal UI", info.temporal_ui or "-")]
        rows += [
            (engine.id, f"{engine.url}  ({engine.kind}, {engine.base_model})") for engine in info.engines
        ]
        rows += [(f"sample {name}", folder) for name, folder in info.adapters.items()]
        rows += [
            (f"metrics of {part}", f"{url}  (with the token)" if part == "api" else url)
            for part, url in info.metrics.items()
        ]
        rows += [("all of it", ".loradock/dev.json, with the token")]
        self.line()
        for name, value in rows:
            self.line(f"  {name:<23} {value}")
        self.line()
