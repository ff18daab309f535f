"""Two SMS providers as one transport: numbers of mainland China go to one, all others to the other.

Each outcome names who answered. An account's pause concerns the channel, so it stops both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType
from typing import Self

from channels.sms.segments import is_mainland
from channels.transports.base import Outcome, Outgoing, Transport

NAME = "sms"


class SmsRouter:
    """Splits a batch by its numbers; both parts are sent at the same time."""

    name = NAME

    def __init__(self, mainland: Transport, abroad: Transport) -> None:
        self._mainland, self._abroad = mainland, abroad

    @property
    def idempotent_s(self) -> int:
        return min(self._mainland.idempotent_s, self._abroad.idempotent_s)

    @property
    def idempotent(self) -> bool:
        return self.idempotent_s > 0

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._mainland)
            await stack.enter_async_context(self._abroad)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def send_many(self, messages: Sequence[Outgoing], deadline_s: float) -> list[Outcome]:
        found: dict[int, Outcome] = {}

        async def part(transport: Transport, numbers: Sequence[int]) -> None:
            outcomes = await transport.send_many([messages[number] for number in numbers], deadline_s)
            for number, outcome in zip(numbers, outcomes, strict=True):
                found[number] = replace(outcome, provider=transport.name)

        split: tuple[list[int], list[int]] = ([], [])
        for number, message in enumerate(messages):
            split[not is_mainland(message.address)].append(number)
        async with asyncio.TaskGroup() as group:
            for transport, numbers in zip((self._mainland, self._abroad), split, strict=True):
                if numbers:
                    group.create_task(part(transport, numbers))
        return [found[number] for number in range(len(messages))]
