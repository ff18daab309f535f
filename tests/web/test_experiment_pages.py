"""Results → Experiments: made, started, ramped up, stopped and read out in the console; the API's scope."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.models import AuditEntry, Member
from experiments import experiments
from experiments.experiments import give, split_of
from experiments.models import Assignment, Experiment, Readout
from tests.conftest import count
from tests.web import browser, experiment_seed, seed
from tests.web.conftest import Shop
from tests.web.test_assets import built
from tests.web.test_contrast import FAINT, HEADLESS, NAMELESS
from web.api import keys

STATES = ("new-checkout", "price-first", "old-idea", "landing", "hero-banner")
DOCS = Path(__file__).parents[2] / "docs" / "experiments-api.md"
GOOD = {
    "name": "free-shipping", "unit": "member", "about": "A threshold of ¥99", "allocation": "fixed",
    "arm-0-name": "control", "arm-0-weight": "60", "arm-1-name": "99", "arm-1-weight": "40",
    "coverage": "20", "layer": "checkout", "layer_low": "0", "layer_high": "50", "hash_version": "2",
}  # fmt: skip


def stored(shop: Shop, name: str) -> dict[str, Any]:
    with shop.database.read() as session:
        return experiments.to_json(experiments.by_name(session, name), seed.NOW)


def code(page: str, language: str) -> str:
    found = re.search(rf'<pre class="mono small" id="{language}" tabindex="0">(.*?)</pre>', page, re.DOTALL)
    assert found is not None
    return unescape(found[1])


@pytest.mark.browser
@pytest.mark.parametrize(("width", "language", "scheme"), [(1280, "zh", "dark"), (390, "en", "light")])
def test_pages_fit_can_be_read_and_break_no_policy(
    shop: Shop, width: int, language: str, scheme: str
) -> None:
    browser.need_browser()
    built()
    ids = experiment_seed.fill(shop.database)
    addresses = (*experiment_seed.PAGES, *(f"/results/experiments/{ids[name]}" for name in STATES))
    with browser.serving(shop.app) as base, browser.browser() as chromium:
        page = browser.open_page(chromium, base, width=width, height=900, language=language)
        page.emulate_media(color_scheme=scheme)
        browser.log_in(page, "admin@example.com", seed.PASSWORD)
        for address in addresses:
            page.goto(address)
            wrong = [
                *page.evaluate(FAINT),
                *page.evaluate(NAMELESS),
                *page.evaluate(HEADLESS),
                *page.problems,
            ]
            assert wrong == [], address
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, address
        page.goto(f"/results/experiments/{ids['new-checkout']}")
        page.click("[data-dialog='#ramp-1']")
        page.click("#ramp-1 button.btn-main")
        page.wait_for_selector("[data-dialog='#ramp-2']", state="attached")
    assert stored(shop, "new-checkout")["coverage"] == 0.2


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_page_renders(shop: Shop, language: str) -> None:
    ids = experiment_seed.fill(shop.database)
    client = shop.client(language=language)
    for address in (*experiment_seed.PAGES, *(f"/results/experiments/{ids[name]}" for name in (
        "new-checkout", "price-first", "old-idea", "landing", "hero-banner",
    ))):  # fmt: skip
        page = client.get(address)
        assert page.status_code == 200, address
        assert "built-in method" not in page.text, address
    analyst = shop.client("analyst@example.com", language)
    page = analyst.get(f"/results/experiments/{ids['new-checkout']}")
    assert page.status_code == 200
    assert 'method="post" action="/results' not in page.text


def test_the_pages_of_both_databases_count_alike(any_shop: Shop) -> None:
    client = any_shop.client()
    with any_shop.database.read() as session:
        if session.scalar(sa.select(Experiment.id).where(Experiment.name == "new-checkout")) is None:
            session.rollback()
            experiment_seed.fill(any_shop.database)
    with any_shop.database.read() as session:
        row = experiments.by_name(session, "new-checkout")
    page = client.get(f"/results/experiments/{row.id}").text
    assert re.search(r"<dt>Units so far</dt><dd>240<", page)
    option = re.search(r'<script type="application/json" id="arrivals-data">(.*?)</script>', page, re.DOTALL)
    assert option is not None
    series = json.loads(option[1])["option"]["series"]
    assert {one["name"]: sum(one["data"]) for one in series} == {"control": 120, "new": 120}
    listed = client.get("/results/experiments").text
    assert re.search(
        r"new-checkout</a>.*?<td class=\"num\">240 <span class=\"muted small\">Members</span></td>",
        listed,
        re.DOTALL,
    )
    assert "春季召回" in listed


def test_a_good_form_makes_a_draft_that_starts_and_only_grows(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    answer = client.post("/results/experiments/new", GOOD)
    assert answer.status_code == 303
    page = answer.headers["Location"]
    made = stored(shop, "free-shipping")
    assert [(arm["name"], arm["weight"]) for arm in made["arms"]] == [("control", 0.6), ("99", 0.4)]
    assert (made["coverage"], made["layer"]) == (0.2, {"name": "checkout", "low": 0.0, "high": 0.5})
    assert (made["status"], made["allocation"]) == ("draft", "fixed")
    assert client.post(f"{page}/start").status_code == 303
    assert stored(shop, "free-shipping")["open"] is True
    assert client.post(f"{page}/ramp", {"coverage": "50"}).status_code == 303
    client.post(f"{page}/ramp", {"coverage": "10"})
    assert "less would take units out" in client.get(page).text
    assert stored(shop, "free-shipping")["coverage"] == 0.5
    client.post(f"{page}/end", {"ends_at": "2026-05-01T00:00"})
    assert stored(shop, "free-shipping")["ends_at"].isoformat() == "2026-04-30T16:00:00+00:00"
    client.post(f"{page}/stop", {"confirm": "free"})
    assert stored(shop, "free-shipping")["status"] == "running"
    client.post(f"{page}/stop", {"confirm": "free-shipping"})
    assert stored(shop, "free-shipping")["status"] == "stopped"
    with shop.database.read() as session:
        query = sa.select(AuditEntry.action, AuditEntry.actor).where(AuditEntry.object_id == "free-shipping")
        done = session.execute(query.order_by(AuditEntry.id)).all()
    assert [action for action, _ in done] == [
        "create",
        "experiment.start",
        "change",
        "change",
        "experiment.stop",
    ]
    assert {who for _, who in done} == {"marketer@example.com"}
    assert "Stopped" in client.get(page).text


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"name": ""}, "name", "This is needed"),
        ({"name": "a/b"}, "name", "without"),
        ({"name": "old-idea"}, "name", "take another name"),
        ({"arm-1-weight": "30"}, "arms", "sum to 90%"),
        ({"arm-1-name": "control"}, "arms", "name of its own"),
        ({"arm-1-name": "", "arm-1-weight": ""}, "arms", "two arms or more"),
        ({"arm-1-weight": "many"}, "arm-1-weight", "Write a number"),
        ({"coverage": "101"}, "coverage", "from 0 to 100"),
        ({"layer_low": "60"}, "layer_low", "low &lt; high"),
        ({"layer": ""}, "layer", "Name the layer"),
        ({"starts_at": "2026-05-01T00:00", "ends_at": "2026-04-01T00:00"}, "ends_at", "after the start"),
        ({"allocation": "bandit", "unit": "visitor", "goal": "revenue"}, "unit", "visitors have none"),
        ({"allocation": "bandit", "goal": "revenue", "floor": "60"}, "floor", "least weight"),
    ],
)
def test_a_refused_form_keeps_what_was_typed_and_says_why_beside_the_field(
    shop: Shop, changes: dict[str, str], field: str, words: str
) -> None:
    experiment_seed.fill(shop.database)
    before = count(shop.database, "experiments")
    page = shop.client().post("/results/experiments/new", {**GOOD, **changes})
    assert page.status_code == 422
    if field == "arms":
        assert re.search(rf'<span class="error">.*?{words}', page.text, re.DOTALL)
    else:
        assert re.search(rf'id="{field}-error">.*?{words}', page.text, re.DOTALL), field
    assert "A threshold of ¥99" in page.text
    assert 'value="20"' in page.text or changes.get("coverage")
    assert count(shop.database, "experiments") == before


def test_weights_left_empty_are_equal_and_a_bandit_is_made(shop: Shop) -> None:
    names = {"arm-0-weight": "", "arm-1-weight": "", "arm-2-name": "199", "arm-2-weight": ""}
    shop.client().post(
        "/results/experiments/new", {**GOOD, **names, "allocation": "bandit", "goal": "converted"}
    )
    with shop.database.read() as session:
        row = experiments.by_name(session, "free-shipping")
        assert [arm["weight"] for arm in row.arms] == [1 / 3] * 3
        assert (row.allocation, row.goal, row.floor, row.window_days) == ("bandit", "converted", 0.05, 14)


def test_a_ramp_up_says_what_it_brings_and_moves_nobody(shop: Shop) -> None:
    ids = experiment_seed.fill(shop.database)
    page = f"/results/experiments/{ids['new-checkout']}"
    client = shop.client()
    text = unescape(client.get(page).text)
    assert re.search(r"Moves nobody: 10% → 50%, about \d+ units a day more\.", text)
    assert "5%</button>" not in text, "no coverage below the one of now"
    with shop.database.read() as session:
        units = [f"u{n}" for n in range(500)]
        before = give(split_of(experiments.by_name(session, "new-checkout")), units)
    client.post(f"{page}/ramp", {"coverage": "50"})
    with shop.database.read() as session:
        after = give(split_of(experiments.by_name(session, "new-checkout")), units)
    assert all(b.arm == a.arm for a, b in zip(before, after, strict=True) if a.in_experiment)
    assert sum(b.in_experiment for b in after) > sum(a.in_experiment for a in before)


def test_the_snippets_are_those_of_the_docs_and_answer_as_the_server_does(shop: Shop) -> None:
    ids = experiment_seed.fill(shop.database)
    page = shop.client().get(f"/results/experiments/{ids['landing']}").text
    docs, python, script = DOCS.read_text(), code(page, "python"), code(page, "javascript")
    for language, text in (("python", python), ("javascript", script)):
        functions = re.search(rf"```{language}\n(.*?)\n```", docs, re.DOTALL)
        assert functions is not None
        assert functions[1] in text, language
    found: dict[str, Any] = {"print": lambda _arm: None}
    exec(compile(python, "page", "exec"), found)
    units = [f"visitor-{n}" for n in range(200)]
    with shop.database.read() as session:
        expected = [one.arm for one in give(split_of(experiments.by_name(session, "landing")), units)]
    assert [found["arm"](found["experiment"], unit) for unit in units] == expected
    assert json.loads(script.partition("const experiment = ")[2].partition(";\n")[0])["name"] == "landing"
    assert "/api/v1/experiments/landing/assign" in page


def test_a_bandit_has_no_snippet_and_says_why(shop: Shop) -> None:
    ids = experiment_seed.fill(shop.database)
    page = shop.client().get(f"/results/experiments/{ids['hero-banner']}").text
    assert "A page cannot compute a bandit" in page
    assert 'id="python"' not in page
    assert 'id="curl"' in page
    option = re.search(r'<script type="application/json" id="weights-data">(.*?)</script>', page, re.DOTALL)
    assert option is not None
    film = next(one for one in json.loads(option[1])["option"]["series"] if one["name"] == "film")
    assert film["data"] == [0.33, 0.33, 0.5, 0.72]
    assert "¥28.00" in page


def test_parts_of_a_layer_that_meet_are_told(shop: Shop) -> None:
    ids = experiment_seed.fill(shop.database)
    text = shop.client().get(f"/results/experiments/{ids['new-checkout']}").text
    assert "Shares a part of its layer with price-first" in text
    assert "20% of the layer are free" in text
    assert text.count("<rect") == 2 * 4, "a track and a part each, in both widths"


def test_a_split_that_went_wrong_is_a_red_notice(shop: Shop) -> None:
    ids = experiment_seed.fill(shop.database)
    page = f"/results/experiments/{ids['new-checkout']}"
    assert "not split as planned" not in shop.client().get(page).text
    with shop.database.write() as session:
        mine = Assignment.experiment_id == ids["new-checkout"]
        session.execute(sa.update(Assignment).where(mine, Assignment.member_id % 3 != 0).values(arm="new"))
    assert "not split as planned" in shop.client().get(page).text


def test_reading_out_keeps_a_read_out_and_shows_it(shop: Shop) -> None:
    ids = experiment_seed.fill(shop.database)
    client = shop.client()
    page = f"/results/experiments/{ids['new-checkout']}"
    answer = client.post(f"{page}/measure", {"window_days": "14"})
    assert answer.status_code == 303
    shown = client.get(answer.headers["Location"])
    assert shown.status_code == 200
    assert "new-checkout" in shown.text
    with shop.database.read() as session:
        kept = session.scalars(sa.select(Readout).where(Readout.experiment_id == ids["new-checkout"])).one()
    assert kept.settings["window_days"] == 14
    assert kept.result["arms"] == {"control": 120, "new": 120}
    assert answer.headers["Location"] in client.get(page).text
    before = count(shop.database, "readouts")
    assert client.post(f"/results/experiments/{ids['hero-banner']}/measure").status_code == 303
    assert count(shop.database, "readouts") == before


def test_experiments_of_campaigns_lead_to_their_own_pages(shop: Shop) -> None:
    with shop.database.read() as session:
        campaign = session.scalar(sa.select(Experiment.id).where(Experiment.kind == "campaign"))
    client = shop.client()
    answer = client.get(f"/results/experiments/{campaign}")
    assert (answer.status_code, answer.headers["Location"].partition("/results/")[1]) == (303, "/results/")
    assert client.post(f"/results/experiments/{campaign}/start").status_code == 404
    assert client.get("/results/experiments/99999").status_code == 404


def test_experiments_have_a_scope_of_their_own_and_old_keys_go_on(shop: Shop) -> None:
    ids = experiment_seed.fill(shop.database)
    assert ids["hero-banner"]
    with shop.database.write() as session:
        secrets = {scope: keys.create(session, scope, [scope], "ann", seed.NOW)[1] for scope in keys.SCOPES}
        member, arm = session.execute(
            sa.select(Member.external_id, Assignment.arm)
            .join(Assignment, Assignment.member_id == Member.id)
            .where(Assignment.experiment_id == ids["hero-banner"])
            .limit(1)
        ).one()
    api = shop.app.test_client()
    codes = {
        scope: api.post(
            "/api/v1/experiments/hero-banner/assign",
            json={"units": [member]},
            headers={"Authorization": f"Bearer {secret}"},
        ).status_code
        for scope, secret in secrets.items()
    }
    assert codes == {"ingest": 403, "read": 403, "loyalty": 200, "experiments": 200}
    found = api.post(
        "/api/v1/experiments/hero-banner/assign",
        json={"units": [member]},
        headers={"Authorization": f"Bearer {secrets['experiments']}"},
    ).get_json()["units"][0]
    assert (found["arm"], found["why"]) == (arm, "assigned")
    page = shop.client().get("/settings/keys").text
    assert 'value="experiments"' in page
    assert shop.client().post("/settings/keys", {"name": "site", "scopes": "experiments"}).status_code == 200
