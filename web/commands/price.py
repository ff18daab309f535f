"""``huiliu price``: what a basket costs after its promotions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from core import settings as core_settings
from core.errors import InvalidInput
from core.times import now
from loyalty.promotions.fields import fail
from loyalty.promotions.parse import Request, read_request
from loyalty.promotions.prices import price_all, price_own
from loyalty.promotions.rules import MAX_DEPTH
from web.commands.common import answer, json_option, open_installation, read_json


@click.command("price")
@click.argument("basket")
@json_option
def price(basket: str, as_json: bool) -> None:
    """Evaluate promotions on the BASKET of a JSON file (- for standard input).

    Without promotions of its own, those that the shop has stored. Nothing is written.
    """
    settings = core_settings.load()
    try:
        request = read_request(read_json(basket), now(settings))
    except RecursionError:
        raise InvalidInput(
            f"{basket} is nested too deeply; conditions nest at most {MAX_DEPTH} levels."
        ) from None
    except UnicodeDecodeError:
        raise fail("", f"{basket} is not UTF-8.") from None
    if request.promotions is not None:
        found = price_own(request, settings.zone)
    else:
        settings, database = open_installation()
        with database.read() as session:
            found = price_all(session, [request], settings.zone, now(settings))[0]
    answer(found, as_json, lambda: _lines(request, found))


def _lines(request: Request, found: dict[str, Any]) -> Iterator[str]:
    for line in found["lines"]:
        taken = "".join(f"  −{one['amount']} {one['promotion']}" for one in line["adjustments"])
        yield f"{line['id']:24} {line['subtotal']:>12} → {line['total']:>12}{taken}"
    if found["shipping"]:
        left = found["shipping"] - found["shipping_discount"]
        yield f"{'shipping':24} {found['shipping']:>12} → {left:>12}"
    yield f"to pay: {found['total']} (minor units of {request.basket.currency})"
    if found["points"]:
        yield f"points on top: {found['points']}"
    for gift in found["gifts"]:
        yield f"gift: {gift['quantity']} × {gift['sku']} ({gift['promotion']})"
    for one in found["rejected"]:
        yield f"not applied: {one['promotion']}: {one['detail']} {one['detail_zh']}"
