"""The demo's story, told through the product's own flows against a real Prefect server.

As of 1 October 2017 everybody is scored and a win-back campaign runs on members at risk and
dormant, a fifth of them held out. Then the real orders of the next weeks are replayed. Nobody in
the data was messaged, so the honest answer is "no difference"; a second read-out, marked as
simulated, shows what one would look like.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import sqlalchemy as sa

from campaigns import campaigns, results
from campaigns.models import CampaignRun
from campaigns.spec import CampaignSpec
from channels import consent
from core import crypto
from core import settings as core_settings
from core.db import Database
from core.errors import HuiliuError
from core.files import open_rows
from core.imports import load_rows
from core.models import Todo
from core.settings import Settings
from core.times import instant, now
from experiments import assignment, catalogue, readout
from loyalty import coupons
from migrations.runner import upgrade
from segments import segments
from segments.facts import open_engine
from web.commands.common import answer, progress_bar
from web.demo import content, data
from web.up import (
    Services,
    deploy,
    settings_environment,
    start_console,
    start_prefect_server,
    start_sandbox,
    start_worker,
)
from web.users import create_user

CAMPAIGN = "win-back"
DAY = date(2017, 10, 1)
REPLAY_DAYS = 42
HOME = Path("var/demo")
MARKER = "this-folder-is-the-demo-and-is-emptied-by-it"
EMAIL, PASSWORD = "demo@example.com", "huiliu-demo"
LIFT_SHARE, LIFT_MINOR = 0.4, 9000


@dataclass
class Story:
    """The installation of the demo, and where the time went."""

    settings: Settings
    database: Database
    say: Any
    quiet: bool
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[title] = round(time.perf_counter() - start, 1)
        self.say(f"  {self.seconds[title]:6.1f} s  {title}")


def demo_settings() -> Settings:
    """Settings of the demo's own home; ports and addresses as they are configured."""
    base = core_settings.load().sandboxed()
    demo = base.model_copy(
        update={
            "home": HOME,
            "database_url": "",
            "warehouse": "",
            "secret": "",
            "shop_name": "Complete Journey Market",
            "shop_timezone": "America/New_York",
            "shop_currency": "USD",
        }
    )
    return at_moment(demo, instant(DAY, demo.zone) + timedelta(hours=10))


def at_moment(settings: Settings, moment: datetime) -> Settings:
    """The settings with a clock that now shows ``moment``."""
    shift = moment - datetime.now(UTC)
    return settings.model_copy(update={"clock_shift_s": round(shift.total_seconds())})


def empty_home(home: Path) -> None:
    """A fresh folder; one that is not the demo's own is left alone."""
    if home.exists():
        if not (home / MARKER).exists():
            raise HuiliuError(f"{home} is not the demo's; move it away, then run the demo again.")
        shutil.rmtree(home)
    home.mkdir(parents=True)
    (home / MARKER).touch()


def tell(*, once: bool, as_json: bool) -> None:
    """Run the demo; leave the console up unless ``once``."""
    started = time.perf_counter()
    say = (lambda _text: None) if as_json else click.echo
    say("Huiliu 回流 demo: real baskets (The Complete Journey, 2017), made-up names and addresses.")
    settings = demo_settings()
    data.folder()
    empty_home(settings.home)
    crypto.install(crypto.open_keyring(settings))
    database = Database(settings.url)
    upgrade(database)
    with database.write() as session:
        catalogue.add_built_in(session, open_engine(settings).replica.facts, EMAIL, now(settings))
    create_user(database, EMAIL, PASSWORD, ["admin"], name="Demo")
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(SystemExit(0)))
    story = Story(settings, database, say, as_json)
    with Services(settings, say) as services:
        start_prefect_server(services)  # it needs half a minute: meanwhile the baskets load
        start_sandbox(services)
        start_console(services)
        _use(services)
        summary = _play(story, services)
        summary["seconds"] = {**story.seconds, "total": round(time.perf_counter() - started, 1)}
        summary |= {"url": settings.base_url, "email": EMAIL, "password": PASSWORD}
        _print(summary, as_json)
        if not once:
            start_worker(services)  # from here on the schedules of prefect.yaml run
            services.watch()


def _use(services: Services) -> None:
    """Make this process, its flows and its children read the demo's settings."""
    os.environ.update(services.environment)
    core_settings.load.cache_clear()


def _play(story: Story, services: Services) -> dict[str, Any]:
    zone = story.settings.zone
    until = datetime.combine(DAY, datetime.min.time())
    with story.step("prepare the files"):
        files = data.prepare(story.settings.home / "files", until, until + timedelta(days=REPLAY_DAYS))
    with story.step("import members, products and nine months of baskets"):
        first = {"members": files.members, "products": files.products, "orders": files.before}
        counts = {kind: _load(story, kind, path) for kind, path in first.items()}
        with story.database.write() as session:
            # The points programme begins with the campaign: what was bought before earns nothing.
            session.execute(sa.delete(Todo))
    with story.step("wait for Prefect's server, deploy prefect.yaml"):
        services.wait()
        deploy(services)
        moment = instant(DAY, zone) + timedelta(hours=10)
        _move_clock(services, story, moment)
        services.wait()
    _set_up(story, moment)
    summary: dict[str, Any] = {"imported": counts, **_run_flows(story, moment)}
    end = moment + timedelta(days=REPLAY_DAYS)
    with story.step("replay six weeks of real orders"):
        _move_clock(services, story, end)
        counts["replayed"] = _load(story, "orders", files.after)
        _later_flows(end.astimezone(zone).date())
    with story.step("read out, as it is and with an effect put in"):
        summary["readouts"] = _read_out(story, end)
    services.wait()
    return summary


def _load(story: Story, kind: str, path: Path) -> dict[str, int]:
    rows = open_rows(path, kind, {})
    with progress_bar(kind, rows.rows, story.quiet) as advance:
        report = load_rows(
            story.database,
            kind,
            rows,
            settings=story.settings,
            source="shop",
            now=now(story.settings),
            consents=consent.set_imported,
            progress=advance,
        )
    return asdict(report)


def _set_up(story: Story, at: datetime) -> None:
    """Segments, templates, coupons and the campaign, as a marketer would make them in the console."""
    with story.database.write() as session:
        for name, title, rule in content.SEGMENTS:
            segments.save(session, name=name, title=title, rule=rule, by=EMAIL, now=at)
        content.save_templates(session, story.settings, EMAIL, at)
        for batch in content.BATCHES:
            coupons.create_batch(session, batch, EMAIL, at)
        content.save_loyalty(session, story.settings, EMAIL, at)
        spec = CampaignSpec.from_json(content.WIN_BACK)
        made = campaigns.create(
            session,
            name=CAMPAIGN,
            title="Autumn win-back 秋季召回",
            spec=spec,
            by="marketer@example.com",
            now=at,
        )
        campaigns.submit(session, made, "marketer@example.com", at)
        campaigns.approve(session, made, EMAIL, at)


def _run_flows(story: Story, at: datetime) -> dict[str, Any]:
    import asyncio

    from campaigns.flows import deliver, run_campaign
    from segments.flows import fit_recommendations, nightly_refresh

    with story.step("flow nightly-refresh, as of 2017-10-01"):
        refreshed = nightly_refresh(DAY)
    with story.step("flow fit-recommendations"):
        fit_recommendations(DAY)
    with story.step("flow run-campaign"):
        run = run_campaign(CAMPAIGN, at)
    with story.step("flow deliver, through the sandbox"):
        delivered = asyncio.run(deliver(max_seconds=120, until_empty=True))
        time.sleep(1)  # the receipts of the last messages are on their way
    return {
        "stages": refreshed["stages"],
        "scored": refreshed["scored"],
        "campaign": run,
        "delivered": delivered,
    }


def _move_clock(services: Services, story: Story, moment: datetime) -> None:
    """Move the clock of this process and of its servers on."""
    story.settings = services.settings = at_moment(story.settings, moment)
    os.environ.update(settings_environment(story.settings))
    core_settings.load.cache_clear()
    for name, start in (("console", start_console), ("sandbox", start_sandbox)):
        services.stop_one(name)
        start(services)


def _later_flows(day: date) -> None:
    from loyalty.flows import accrue_points, expire
    from segments.flows import nightly_refresh

    accrue_points()
    expire()
    nightly_refresh(day)


def _read_out(story: Story, as_of: datetime) -> dict[str, Any]:
    engine = open_engine(story.settings)
    currency = story.settings.shop_currency
    shown: dict[str, Any] = {}
    with story.database.write() as session:
        campaign = campaigns.by_name(session, CAMPAIGN)
        assigned = assignment.assigned(session, campaign.experiment_id or 0)
        lifted = results.with_lift(
            engine,
            assigned,
            {"A": (LIFT_SHARE, LIFT_MINOR), "B": (LIFT_SHARE / 5, LIFT_MINOR)},
            timedelta(days=5),
        )
        note = (
            f"Simulated: {LIFT_SHARE:.0%} of the members of A and {LIFT_SHARE / 5:.0%} of B buy once more, "
            f"for {LIFT_MINOR / 100:.2f} {currency}."
        )
        for kind, source, words in ((readout.REAL, engine, None), (readout.SIMULATED, lifted, note)):
            found = results.result(session, source, campaign, as_of, currency)
            results.freeze(
                session, campaign, found, as_of=as_of, now=now(story.settings), kind=kind, note=words
            )
            shown[kind] = {
                "verdict": readout.verdict(found.readout, "en"),
                "profit": {arm: asdict(money.profit) for arm, money in found.money.items()},
            }
        runs = session.scalars(
            sa.select(CampaignRun.counts).where(CampaignRun.campaign_id == campaign.id)
        ).all()
        shown["runs"] = len(runs)
    return shown


def _print(summary: dict[str, Any], as_json: bool) -> None:
    def lines() -> Iterator[str]:
        run, delivered = summary["campaign"], summary["delivered"]
        stages = ", ".join(f"{name} {number}" for name, number in summary["stages"].items())
        yield ""
        yield f"Members by stage: {stages}"
        yield (
            f"Campaign: {run['candidates']} candidates, sent {run['sent']}, held out {run['holdout']}, "
            f"global control {run['control']}, left out {run['skipped']}, {run['coupons']} coupons"
        )
        yield f"Delivered: {delivered}"
        yield f"Result:    {summary['readouts']['real']['verdict']}"
        yield f"Simulated: {summary['readouts']['simulated']['verdict']}"
        yield f"All of it took {summary['seconds']['total']} s."
        yield ""
        yield f"Console:  {summary['url']}   log in as {summary['email']} with {summary['password']}"

    answer(summary, as_json, lines)
