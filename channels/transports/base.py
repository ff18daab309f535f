"""What a transport is: messages in, one outcome each out, and the reactions to a provider's refusal.

Guarantees asked of every transport: :meth:`Transport.send_many` answers one outcome per message
in order, never raises for a single message, starts none after the deadline, and says ``UNKNOWN``
whenever the provider may have taken a message without saying so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from core.errors import HuiliuError

Item = TypeVar("Item")


class Reaction(StrEnum):
    """What follows from an answer that is not "accepted"."""

    RETRY = "retry"
    """Again later, with back-off; counts as an attempt."""
    DEFER = "defer"
    """Again at the time the provider's rule ends (``after_s``); counts as an attempt."""
    FAIL = "fail"
    """This message cannot be delivered; the next channel may."""
    SUPPRESS = "suppress"
    """As FAIL, and the address is written to no more."""
    STOP = "stop"
    """The template or its data is refused: the rest of the same source would be as well."""
    PAUSE = "pause"
    """The account is refused (credit, permission, quota): nothing more until someone resumes it."""
    UNREACHABLE = "unreachable"
    """The provider cannot be reached at all: nothing was handed over, no attempt counts."""
    UNKNOWN = "unknown"
    """Handed over, and no answer."""
    HOLD = "hold"
    """Held back by a limit of ours (a receiver's pace, a warm-up) for ``after_s``; no attempt counts."""
    RETURN = "return"
    """Not even tried: the deadline passed, or the account was paused meanwhile."""


_AGAIN = frozenset(
    {
        Reaction.RETRY,
        Reaction.DEFER,
        Reaction.PAUSE,
        Reaction.UNREACHABLE,
        Reaction.HOLD,
        Reaction.RETURN,
    }
)
_ENDS_BATCH = frozenset({Reaction.PAUSE, Reaction.UNREACHABLE})


class TransportError(HuiliuError):
    """A provider's refusal, or silence; ``reaction`` says what follows, ``code`` is the provider's own."""

    def __init__(
        self,
        message: str,
        reaction: Reaction,
        *,
        code: str = "",
        after_s: float | None = None,
        suppression: str = "blocked",
        bounce: str = "",
        slow_s: float | None = None,
        stop_s: float | None = None,
        withdraws: bool = False,
        repeatable: bool = True,
    ) -> None:
        super().__init__(message)
        self.reaction = reaction
        self.code = code
        self.after_s = after_s
        self.bounce = bounce
        """The class of a refused e-mail (``channels.bounces.classify``), where the address is not dead."""
        self.slow_s = slow_s
        """For how long the receiver wants few messages."""
        self.stop_s = stop_s
        """For how long the receiver wants none."""
        self.suppression = suppression
        """The reason that a SUPPRESS writes."""
        self.withdraws = withdraws
        """Whether the refusal says that its member left the channel's marketing at the provider."""
        self.repeatable = repeatable
        """Whether a provider that drops repetitions drops one of this message too."""

    @property
    def retry(self) -> bool:
        """Whether the message goes back into the queue."""
        return self.reaction in _AGAIN


@dataclass(frozen=True, slots=True)
class EmailPayload:
    content: bytes
    """The whole message, header and body, lines ended by CRLF; the part of it that is this member's own."""
    tail: bytes = b""
    """What follows and all messages of a template share: its files. Kept once, however many wait."""

    @property
    def whole(self) -> bytes:
        return self.content + self.tail if self.tail else self.content


@dataclass(frozen=True, slots=True)
class SmsPayload:
    template_code: str
    params: dict[str, str]
    text: str
    """The text as a reader sees it; providers that keep the text themselves do not get it."""


@dataclass(frozen=True, slots=True)
class WechatPayload:
    template_id: str
    url: str
    data: dict[str, str]
    kind: str = "template"
    """``template``, ``subscription`` (needs a grant) or ``service`` (``text``; needs an open window)."""
    text: str = ""
    miniprogram: tuple[str, str] | None = None
    """(appid, path) of the mini program that opens instead of ``url``."""


@dataclass(frozen=True, slots=True)
class WebhookPayload:
    """A message to the shop's own address, which shows it (in an app, say) however it likes."""

    member_id: str
    """The shop's own name of the member."""
    title: str
    body: str
    url: str
    data: dict[str, str]


@dataclass(frozen=True, slots=True)
class WecomPayload:
    """A text from an employee to a customer; equal ones may share a request."""

    text: str
    link: tuple[str, str, str, str] | None = None
    """(title, url, desc, picurl) of the page attached to it."""


Payload = EmailPayload | SmsPayload | WechatPayload | WebhookPayload | WecomPayload


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message ready for its provider."""

    message_id: int
    client_id: str
    """The same at every attempt, so that the other side can drop a double."""
    address: str
    payload: Payload


@dataclass(frozen=True, slots=True)
class Outcome:
    """Accepted under ``provider_id`` (None where the provider gives none), or ``error``."""

    provider_id: str | None = None
    error: TransportError | None = None
    provider: str | None = None
    """Who answered, where the transport stands for several providers."""
    created: bool = False
    """Accepted as a task that somebody has to confirm before it is sent."""


NOT_ASKED = "breaker"
"""The code of an UNREACHABLE where no provider was asked, for they rest after failures."""
NOT_TRIED = Outcome(error=TransportError("Not sent in this batch.", Reaction.RETURN))


class Transport(Protocol):
    """A connection to a channel's provider, entered once and used for many batches."""

    @property
    def name(self) -> str:
        """The provider, as ``messages.provider`` keeps it."""
        ...

    @property
    def idempotent_s(self) -> int:
        """For how many seconds the provider drops a repetition of the same ``client_id``; 0: never."""
        ...

    async def send_many(self, messages: Sequence[Outgoing], deadline_s: float) -> list[Outcome]:
        """Send; no message is begun later than ``deadline_s`` seconds from now."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@dataclass
class Work(Generic[Item]):
    """A batch shared by workers: each takes the next item until none is left or sending must stop."""

    items: Sequence[Item]
    deadline: float
    """In the loop's clock."""
    stopped: bool = False
    results: dict[int, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._next = iter(range(len(self.items)))

    def __iter__(self) -> Iterator[tuple[int, Item]]:
        clock = asyncio.get_running_loop().time
        while not self.stopped and clock() < self.deadline:
            index = next(self._next, None)
            if index is None:
                return
            yield index, self.items[index]

    def settle(self, index: int, outcome: Outcome) -> None:
        self.results[index] = outcome
        if outcome.error is not None and outcome.error.reaction in _ENDS_BATCH:
            self.stopped = True

    def outcomes(self) -> list[Outcome]:
        """One outcome per item; items that nobody took count as not tried."""
        return [self.results.get(index, NOT_TRIED) for index in range(len(self.items))]


async def send_each(
    items: Sequence[Item], send: Callable[[Item], Awaitable[str | None]], concurrency: int, deadline_s: float
) -> list[Outcome]:
    """``send`` every item, ``concurrency`` at once; it answers the provider's id or raises TransportError."""
    work = Work(items, asyncio.get_running_loop().time() + deadline_s)

    async def worker() -> None:
        for index, item in work:
            try:
                work.settle(index, Outcome(await send(item)))
            except TransportError as error:
                work.settle(index, Outcome(error=error))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(items))):
            group.create_task(worker())
    return work.outcomes()


async def send_groups(
    groups: Sequence[Sequence[int]],
    send: Callable[[Sequence[int]], Awaitable[Mapping[int, Outcome]]],
    *,
    splits: Callable[[TransportError], bool],
    concurrency: int,
    deadline_s: float,
) -> dict[int, Outcome]:
    """``send`` groups of places in a batch, a request each; outcomes by place, without those not tried.

    A request that is refused as a whole for what may be one message's sake (``splits``) is halved until
    the message is alone.
    """
    done: dict[int, Outcome] = {}
    work = Work(groups, asyncio.get_running_loop().time() + deadline_s)

    async def parted(group: Sequence[int]) -> Mapping[int, Outcome]:
        try:
            return await send(group)
        except TransportError as error:
            if len(group) == 1 or not splits(error):
                return dict.fromkeys(group, Outcome(error=error))
            half = len(group) // 2
            return {**await parted(group[:half]), **await parted(group[half:])}

    async def worker() -> None:
        for index, group in work:
            for place, outcome in (await parted(group)).items():
                done[place] = outcome
                work.settle(index, outcome)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(concurrency, len(groups))):
            tasks.create_task(worker())
    return done
