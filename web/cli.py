"""The command ``huiliu``. Exit codes: 0 done, 1 refused, 2 wrong usage, 3 done but rows were rejected."""

from __future__ import annotations

import logging

import click

from web.commands import (
    bandits,
    campaigns,
    clv,
    coupons,
    data,
    experiments,
    points,
    price,
    recommend,
    reminders,
    segments,
    services,
    watching,
    wechat,
)
from web.commands.common import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="huiliu")
def main() -> None:
    """Huiliu 回流: marketing automation and growth for e-commerce."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


for command in (
    data.init,
    data.import_file,
    data.refresh,
    segments.group,
    campaigns.group,
    coupons.group,
    recommend.group,
    price.price,
    points.group,
    reminders.reminders,
    campaigns.deliver,
    clv.group,
    experiments.group,
    watching.show,
    wechat.group,
    services.up,
    services.serve,
    services.sandbox,
    services.demo,
    services.doctor,
    services.bench,
):
    main.add_command(command)
campaigns.group.add_command(watching.watch)
experiments.group.add_command(bandits.reweigh)
