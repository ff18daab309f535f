"""``huiliu recommend``: fit, show, evaluate."""

from __future__ import annotations

from collections.abc import Iterator

import click

from core import members
from segments.facts import open_engine
from segments.recommend.judge import judge
from segments.recommend.model import fit
from segments.recommend.rank import MAX_PRODUCTS, recommend
from web.commands.common import answer, json_option, open_installation, parse_day


@click.group("recommend")
def group() -> None:
    """Products that members may want next."""


@group.command("fit")
@click.option("--as-of", metavar="DATE")
@json_option
def fit_model(as_of: str | None, as_json: bool) -> None:
    """Find out what goes with what, and what is popular."""
    settings, database = open_installation()
    engine = open_engine(settings)
    engine.replica.sync(database)
    answer(fit(engine, parse_day(as_of, settings), settings.zone).to_json(), as_json)


@group.command()
@click.argument("member_id")
@click.option("--number", "-n", type=click.IntRange(1, MAX_PRODUCTS), default=10, show_default=True)
@click.option("--source", default="shop", show_default=True)
@click.option("--as-of", metavar="DATE")
@json_option
def show(member_id: str, number: int, source: str, as_of: str | None, as_json: bool) -> None:
    """The products for a member, and why each."""
    settings, database = open_installation()
    engine = open_engine(settings)
    engine.replica.sync(database)
    with database.read() as session:
        known = members.by_external_id(session, member_id, source)
    found = recommend(engine, [known.id], parse_day(as_of, settings), settings.zone, n=number)[known.id]
    rows = [vars(product) for product in found]

    def lines() -> Iterator[str]:
        yield from (
            f"{product.score:5.2f}  {product.reason:16} {product.sku:20} {product.name or ''}"
            for product in found
        )
        if not found:
            yield "Nothing: run `huiliu recommend fit` first, or import products."

    answer({"member_id": member_id, "products": rows}, as_json, lines)


@group.command()
@click.option("--as-of", metavar="DATE")
@click.option("--days", type=click.IntRange(1, 365), default=28, show_default=True, help="Of the hold-out.")
@json_option
def evaluate(as_of: str | None, days: int, as_json: bool) -> None:
    """How often one of ten recommended products was bought in the last days, against the most popular ten."""
    settings, database = open_installation()
    engine = open_engine(settings)
    engine.replica.sync(database)
    found = judge(engine, parse_day(as_of, settings), settings.zone, days=days)

    def lines() -> Iterator[str]:
        yield f"{found.members:,} members bought something new in the {found.days} days before {found.as_of}"
        yield f"hit rate at 10: {found.hit_rate:.1%} (most popular products: {found.baseline:.1%})"

    answer(found.to_json(), as_json, lines)
