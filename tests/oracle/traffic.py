"""Mixed traffic to engines, every answer judged."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.oracle.timeline import Asked, Heard, Timeline
from tests.oracle.truth import MAX_TOKENS, Question

AT_ONCE = 6


@dataclass
class Verdicts:
    """What became of all requests.

    Attributes:
        right: answers that were exactly right, by name.
        refused: refusals that were allowed, by name.
        wrong: one line each.
    """

    right: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Traffic:
    """Requests for all names on all engines, in all forms, until told to stop.

    Args:
        engines: address by id.
        names: the names that are asked for; also such as nobody ever loads.
    """

    def __init__(
        self,
        engines: dict[str, str],
        names: Sequence[str],
        questions: Sequence[Question],
        timeline: Timeline,
        seed: int,
    ) -> None:
        self._engines = engines
        self._names = names
        self._questions = questions
        self._timeline = timeline
        self._random = random.Random(seed)
        self.verdicts = Verdicts()
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        """Keep so many requests under way until `stopped`."""
        limits = httpx.Limits(max_connections=AT_ONCE)
        async with httpx.AsyncClient(timeout=60, trust_env=False, limits=limits) as http:
            await asyncio.gather(*(self._ask_again_and_again(http) for _ in range(AT_ONCE)))

    async def _ask_again_and_again(self, http: httpx.AsyncClient) -> None:
        while not self.stopped.is_set():
            engine = self._random.choice(list(self._engines))
            name = self._random.choice(self._names)
            question = self._random.choice(self._questions)
            stream = self._random.random() < 0.4
            began = time.monotonic()
            heard = await self._ask(http, self._engines[engine], name, question, stream=stream)
            asked = Asked(engine, name, question, began, time.monotonic())
            self._note(asked, heard)
            if heard.status != 200:
                await asyncio.sleep(0.05)

    def _note(self, asked: Asked, heard: Heard) -> None:
        wrong = self._timeline.judge(asked, heard)
        if wrong is not None:
            self.verdicts.wrong.append(f"{asked.engine} {asked.name} {asked.question}: {wrong}")
        elif heard.status == 200:
            self.verdicts.right[asked.name] += 1
        else:
            self.verdicts.refused[asked.name] += 1

    async def _ask(
        self, http: httpx.AsyncClient, url: str, name: str, question: Question, *, stream: bool
    ) -> Heard:
        body: dict[str, Any] = {"model": name, "max_tokens": MAX_TOKENS, "temperature": 0, "stream": stream}
        if question.chat:
            path, body["messages"] = "/v1/chat/completions", [{"role": "user", "content": question.prompt}]
        else:
            path, body["prompt"] = "/v1/completions", question.prompt
        try:
            if stream:
                return await self._read_stream(http, url + path, body)
            reply = await http.post(url + path, json=body)
        except httpx.TransportError as error:
            return Heard(0, refusal=type(error).__name__)
        if reply.status_code != 200:
            return Heard(reply.status_code, refusal=reply.text)
        return Heard(200, _text(reply.json()["choices"][0]))

    @staticmethod
    async def _read_stream(http: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Heard:
        text, finished = "", False
        async with http.stream("POST", url, json=body) as reply:
            if reply.status_code != 200:
                return Heard(reply.status_code, refusal=(await reply.aread()).decode(errors="replace"))
            try:
                async for line in reply.aiter_lines():
                    if line == "data: [DONE]":
                        finished = True
                    elif line.startswith("data: "):
                        choices = json.loads(line[6:]).get("choices") or []
                        text += "".join(_text(choice) for choice in choices)
            except httpx.TransportError:
                return Heard(200, text, finished=False)
        return Heard(200, text, finished)


def _text(choice: dict[str, Any]) -> str:
    for key in ("message", "delta"):
        if key in choice:
            return choice[key].get("content") or ""
    return choice.get("text") or ""
