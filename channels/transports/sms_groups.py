"""SMS that share a request: which messages may, and the sending of them group by group."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from typing import TypeVar

from channels.transports.base import (
    NOT_TRIED,
    Outcome,
    Outgoing,
    Reaction,
    SmsPayload,
    TransportError,
    send_groups,
)

Shared = TypeVar("Shared", bound=Hashable)


def sms_of(message: Outgoing) -> SmsPayload:
    assert isinstance(message.payload, SmsPayload)
    return message.payload


def grouped(
    messages: Sequence[Outgoing], shared: Callable[[Outgoing], Shared], most: int
) -> tuple[list[list[int]], dict[int, Outcome]]:
    """Places of messages that have the same in common, at most ``most`` and every number once a group; and
    the outcomes of those for which ``shared`` raises TransportError.

    Answers and receipts name a number, so that the same one twice in a request could not be told apart.
    """
    open_groups: dict[Shared, tuple[list[int], set[str]]] = {}
    done: list[list[int]] = []
    refused: dict[int, Outcome] = {}
    for place, message in enumerate(messages):
        try:
            common = shared(message)
        except TransportError as error:
            refused[place] = Outcome(error=error)
            continue
        group, phones = open_groups.get(common, ([], set()))
        if len(group) == most or message.address in phones:
            done.append(group)
            group, phones = [], set()
        group.append(place)
        phones.add(message.address)
        open_groups[common] = (group, phones)
    return done + [group for group, _ in open_groups.values()], refused


async def send_grouped(
    messages: Sequence[Outgoing],
    shared: Callable[[Outgoing], Shared],
    most: int,
    send: Callable[[Sequence[int]], Awaitable[Mapping[int, Outcome]]],
    *,
    of_one_number: Collection[Reaction],
    concurrency: int,
    deadline_s: float,
) -> list[Outcome]:
    """One outcome a message, in order. ``send`` makes one request of the messages in these places;
    ``of_one_number``: reactions that one number of a request may have caused for all.
    """
    groups, refused = grouped(messages, shared, most)
    sent = await send_groups(
        groups,
        send,
        splits=lambda error: error.reaction in of_one_number,
        concurrency=concurrency,
        deadline_s=deadline_s,
    )
    return [refused.get(place) or sent.get(place, NOT_TRIED) for place in range(len(messages))]
