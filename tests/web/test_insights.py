"""Insight pages: moves, cohorts, funnels, paths, a segment's history."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from core.db import Database
from core.settings import Settings
from core.times import instant
from segments.explore import cohorts, funnels, moves, paths
from segments.facts import open_engine
from tests.conftest import SECRET
from tests.web.conftest import Browser, Shop, open_shop
from web import charts
from web.roles import Permission

PAGES = ("/segments/moves", "/segments/cohorts", "/segments/funnels", "/segments/paths")
FUNNEL = "step=product_viewed&step=order&from=2026-01-01&to=2026-02-28&window=30&unit=d&by=city"
PATHS = "event=product_viewed&from=2026-01-01&to=2026-02-28&window=30"
RESULTS = (
    "/segments/moves/result",
    "/segments/moves/result?column=rfm_segment",
    "/segments/moves/result?column=value_segment",
    "/segments/cohorts/result",
    "/segments/cohorts/result?measure=orders&period=week&count=20",
    "/segments/cohorts/result?measure=revenue&segment=coffee-lovers&channel=web",
    f"/segments/funnels/result?{FUNNEL}",
    "/segments/funnels/result?step=order&step=order&step=order&window=36&unit=h",
    f"/segments/paths/result?{PATHS}",
    "/segments/paths/result?event=order&direction=before",
)
HTMX = {"HX-Request": "true"}
AS_OF, BEFORE = date(2026, 3, 1), date(2026, 2, 9)


@pytest.fixture(scope="module")
def reader(sqlite_shop_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The seeded shop on SQLite, shared by the tests that only read."""
    home = tmp_path_factory.mktemp("reader") / "shop"
    shutil.copytree(sqlite_shop_folder, home)
    settings = Settings(home=home, secret=SECRET, _env_file=None)
    database = Database(settings.url)
    yield open_shop(database, settings)
    database.dispose()


@pytest.fixture(scope="module")
def client(reader: Shop) -> Browser:
    """An administrator who reads English."""
    return reader.client()


def moment(shop: Shop, day: date) -> datetime:
    return instant(day, shop.settings.zone)


def field(text: str, name: str) -> str:
    """The error beside a field, as text."""
    found = re.search(rf'id="{name}-error">.*?<span>(.*?)</span>', text, re.DOTALL)
    return html.unescape(found.group(1)) if found else ""


def chart(text: str, id_: str) -> dict[str, Any]:
    found = re.search(rf'<script type="application/json" id="{id_}-data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found.group(1))
    return data


# Every page


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_page_and_answer_renders_in_both_languages(any_shop: Shop, language: str) -> None:
    client = any_shop.client(language=language)
    for address in (*PAGES, *RESULTS):
        page = client.get(address)
        assert page.status_code == 200, address
        assert f'<html lang="{"zh-CN" if language == "zh" else "en"}">' in page.text, address
        assert ("同期群" in page.text) is (language == "zh"), address
        assert not re.search(r"<[^>]*\s(style|on\w+)=|<style", page.text), address


def test_a_script_gets_the_answer_alone_and_no_cache_mixes_the_two(client: Browser) -> None:
    for address in RESULTS:
        part = client.get(address, headers=HTMX)
        assert part.status_code == 200, address
        assert "<html" not in part.text, address
        assert "HX-Request" in part.headers["Vary"], address
        assert len(part.text) > 300, address


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_answer_has_its_figures_in_a_table_with_headers(reader: Shop, language: str) -> None:
    client = reader.client(language=language)
    for address in RESULTS:
        if "channel=web" in address:
            continue  # nobody's first order came through it
        text = client.get(address, headers=HTMX).text
        figures = re.findall(r'<figure class="chart-box">(.*?)</figure>', text, re.DOTALL)
        assert figures, address
        for figure in figures:
            assert re.search(
                r'<table class="table">.*<th scope="col">.*<tbody>.*<th scope="row">', figure, re.DOTALL
            )


@pytest.mark.parametrize("language", ["en", "zh"])
def test_an_empty_shop_is_told_what_each_page_is_for(empty_shop: Shop, language: str) -> None:
    client = empty_shop.client(language=language)
    for address in (*PAGES, *RESULTS):
        page = client.get(address)
        assert page.status_code == 200, address
        if address not in ("/segments/cohorts",) and "segment=" not in address:
            assert 'class="empty"' in page.text, address


def test_every_view_only_needs_to_look_and_nobody_gets_in_without_logging_in(shop: Shop) -> None:
    own = [rule for rule in shop.app.url_map.iter_rules() if rule.endpoint.startswith("insights.")]
    names = [rule for rule in own if not rule.endpoint.endswith("_list")]  # lists are made of what is found
    assert len(names) == 11
    for rule in names:
        assert shop.app.view_functions[rule.endpoint].permission == Permission.VIEW
        assert rule.methods <= {"GET", "HEAD", "OPTIONS"}
    stranger = shop.client(None)
    for address in PAGES:
        assert stranger.get(address).headers["Location"].startswith("/login")


def test_only_who_may_edit_is_offered_to_make_a_segment(reader: Shop) -> None:
    for email, offered in (("marketer@example.com", True), ("analyst@example.com", False)):
        text = reader.client(email).get("/segments/moves/result").text
        assert ("/segments/new?rule=" in text) is offered, email


# Moves


def test_the_matrix_counts_what_the_snapshots_hold_and_cells_lead_to_their_members(
    reader: Shop, client: Browser
) -> None:
    found = moves.matrix(open_engine(reader.settings), "stage", BEFORE, AS_OF)
    text = client.get("/segments/moves/result", headers=HTMX).text
    cells = re.findall(r'<td class="shade-\d+" title="([^"]+)"><a href="([^"]+)"', text)
    assert len(cells) == len(found.cells)
    assert f">{found.moved}<" in text
    for _title, address in cells:
        address = html.unescape(address)
        source, target = re.findall(r"(?:source|target)=(\w+)", address)
        page = client.get(address).text
        listed = set(re.findall(r'href="/members/(\d+)"', page))
        expected = moves.members(
            open_engine(reader.settings), "stage", BEFORE, AS_OF, source, target, rows=50
        )
        assert listed == {str(number) for number in expected}, address
        assert len(expected) == min(found.count(source, target), 50)


def test_a_long_cell_is_listed_page_by_page(reader: Shop, client: Browser) -> None:
    found = moves.matrix(open_engine(reader.settings), "stage", BEFORE, AS_OF)
    cell = found.cells[0]
    assert cell.members > 50
    address = f"/segments/moves/members?column=stage&before={BEFORE}&after={AS_OF}&source={cell.source}&target={cell.target}"
    first, second = client.get(address).text, client.get(f"{address}&page=2").text
    pages = [set(re.findall(r'href="/members/(\d+)"', text)) for text in (first, second)]
    assert (len(pages[0]), len(pages[1]), pages[0] & pages[1]) == (50, cell.members - 50, set())
    assert 'rel="next"' in first
    assert 'rel="next"' not in second


def test_a_day_without_a_refresh_takes_the_nearest_and_says_so(client: Browser) -> None:
    text = client.get("/segments/moves/result?before=2026-02-01&after=2026-03-09").text
    assert "the nearest ones, Feb 9, 2026 and Mar 1, 2026, are compared" in text
    assert 'value="2026-02-01"' in text
    assert "the nearest ones" not in client.get("/segments/moves/result").text


@pytest.mark.parametrize(
    ("query", "name", "error"),
    [
        ("before=2026-03-01&after=2026-02-09", "before", "must lie before the second"),
        ("before=2026-02-27&after=2026-03-01", "before", "fall to the same refresh"),
        ("before=soon&after=2026-03-01", "before", "Write a date like 2026-03-01"),
        ("column=email", "column", "Choose one of the list"),
    ],
)
def test_dates_that_cannot_be_compared_are_explained_beside_their_field(
    client: Browser, query: str, name: str, error: str
) -> None:
    text = client.get(f"/segments/moves?{query}").text
    assert error in field(text, name)
    assert "hx-get" not in text.partition('<div class="stack stack-l">')[2]
    if "before=2026" in query:
        assert f'value="{query[7:17]}"' in text


def test_a_cell_of_stages_offers_the_rule_that_comes_nearest(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    address = (
        f"/segments/moves/members?column=stage&before={BEFORE}&after={AS_OF}&source=active&target=dormant"
    )
    text = client.get(address).text
    link = re.search(r'href="(/segments/new\?rule=[^"]+)"', text)
    assert link is not None
    editor = client.get(html.unescape(link.group(1))).text
    assert "Dormant since after Feb 9, 2026" in editor
    assert "lifecycle.since" in editor
    counted = client.post(
        "/segments/count",
        {
            "rule": json.dumps(
                {
                    "all": [
                        {"field": "lifecycle", "op": "=", "value": "dormant"},
                        {"field": "lifecycle.since", "op": ">", "value": "2026-02-09"},
                    ]
                }
            )
        },
    ).text
    found = moves.matrix(open_engine(shop.settings), "stage", BEFORE, AS_OF)
    since = found.at_end("dormant") - found.count("dormant", "dormant")
    assert f"<strong>{since}</strong>" in counted


def test_members_of_a_cell_that_does_not_exist_are_nobody(client: Browser) -> None:
    base = f"/segments/moves/members?column=stage&before={BEFORE}&after={AS_OF}"
    assert "Nobody is here" in client.get(f"{base}&source=nowhere&target=active").text
    assert client.get(base).status_code == 404
    assert client.get(f"{base}&source=a&target=b&before=2027-01-01").status_code in (200, 404)


# Cohorts


def test_the_heat_map_shows_the_shares_of_the_query_with_their_bases(reader: Shop, client: Browser) -> None:
    found = cohorts.cohorts(open_engine(reader.settings), AS_OF, reader.settings.zone)
    text = client.get("/segments/cohorts/result", headers=HTMX).text
    titles = re.findall(r'title="(\d+) of (\d+) members ordered"', text)
    expected = [
        (str(cell.members), str(cohort.size))
        for cohort in found.cohorts
        if cohort.size
        for cell in cohort.cells
    ] + [(str(average.members), str(average.size)) for average in found.averages]
    assert titles == expected
    assert f"{found.members} members with a first order" in text


def test_money_is_written_as_money_and_a_segment_narrows_the_cohorts(client: Browser) -> None:
    everybody = client.get("/segments/cohorts/result?measure=revenue&count=24", headers=HTMX).text
    assert re.search(r'<td class="shade-\d+" title="¥[\d,.]+ from \d+ members">¥[\d,]+</td>', everybody)
    some = client.get("/segments/cohorts/result?measure=revenue&count=24&segment=vip", headers=HTMX).text
    base = [int(re.search(r"(\d+) members with a first order", text).group(1)) for text in (everybody, some)]  # type: ignore[union-attr]
    assert 0 < base[1] < base[0]


def test_a_month_that_is_not_over_is_marked(client: Browser) -> None:
    text = client.get("/segments/cohorts/result?period=week&count=30", headers=HTMX).text
    assert "this period is not over yet" in text
    assert re.search(r'<td class="shade-\d+ partial"', text)
    whole = client.get("/segments/cohorts/result", headers=HTMX).text
    assert "this period is not over yet" not in whole  # as of the first of March, February is over


@pytest.mark.parametrize(
    ("query", "name"),
    [("measure=x", "measure"), ("period=day", "period"), ("count=0", "count"), ("count=many", "count"),
     ("period=month&count=37", "count"), ("segment=none", "segment")],
)  # fmt: skip
def test_what_no_cohort_can_be_is_refused_beside_its_field(client: Browser, query: str, name: str) -> None:
    text = client.get(f"/segments/cohorts?{query}").text
    assert field(text, name)
    assert "/segments/cohorts/result" not in text


def test_a_channel_that_nobody_used_shows_no_cohort_and_stays_chosen(client: Browser) -> None:
    text = client.get("/segments/cohorts/result?channel=<script>").text
    assert '<option value="&lt;script&gt;" selected>' in text
    assert "No first order in this time" in text


# Funnels


def question(shop: Shop) -> funnels.Question:
    start, end = moment(shop, date(2026, 1, 1)), moment(shop, date(2026, 3, 1))
    return funnels.Question(("product_viewed", "order"), start, end, timedelta(days=30), "city")


def test_a_funnel_shows_its_counts_and_leads_to_who_stopped(reader: Shop, client: Browser) -> None:
    found = funnels.funnel(open_engine(reader.settings), question(reader), moment(reader, AS_OF))
    text = client.get(f"/segments/funnels/result?{FUNNEL}", headers=HTMX).text
    entered, ordered = (step.members for step in found.steps)
    assert 0 < ordered < entered
    assert f"{entered} members did the first step from Jan 1, 2026 to Feb 28, 2026" in text
    assert f"{found.still_open} of {entered} members began less than 30 days ago" in text
    link = re.search(rf'<a href="([^"]+)">{entered - ordered} went no further</a>', text)
    assert link is not None
    ids = funnels.members(
        open_engine(reader.settings), question(reader), moment(reader, AS_OF), 0, dropped=True, rows=50
    )
    page = client.get(html.unescape(link.group(1))).text
    assert set(re.findall(r'href="/members/(\d+)"', page)) == {str(number) for number in ids}
    assert "Got to “Product viewed” and no further" in page
    for group in found.groups:
        assert f"{group.value}: {group.members[1]} of {group.members[0]} members" in text


def test_the_address_of_a_funnel_asks_the_same_again(client: Browser) -> None:
    text = client.get(f"/segments/funnels?{FUNNEL}").text
    assert re.findall(r'<option value="(\w+)" selected>', text) == ["product_viewed", "order", "d", "city"]
    for value in ("2026-01-01", "2026-02-28", "30"):
        assert f'value="{value}"' in text
    address = re.search(r'hx-get="([^"]+)"', text.partition('id="result"')[2])
    assert address is not None
    again = html.unescape(address.group(1)).partition("?")[2]
    assert sorted(again.split("&")) == sorted(FUNNEL.split("&"))


@pytest.mark.parametrize(
    ("query", "name", "error"),
    [
        ("step=order", "step", "Choose from 2 to 6 steps"),
        ("&".join(["step=order"] * 7), "step", "Choose from 2 to 6 steps"),
        ("step=", "step", "Choose from 2 to 6 steps"),
        (f"step=order&step={'x' * 81}", "step", "Choose events of the list"),
        ("step=a&step=b&from=2026-03-02&to=2026-03-01", "from", "must not lie after the second"),
        ("step=a&step=b&from=2020-01-01&to=2026-03-01", "from", "At most three years"),
        ("step=a&step=b&to=2026-02-30", "to", "Write a date like"),
        ("step=a&step=b&window=0", "window", "from 1 to 365"),
        ("step=a&step=b&window=9999&unit=h", "window", "from 1 to 8,760"),
        ("step=a&step=b&window=", "window", "This is needed"),
        ("step=a&step=b&by=email", "by", "Choose one of the list"),
    ],
)
def test_a_funnel_that_makes_no_sense_keeps_what_was_typed_and_says_why(
    client: Browser, query: str, name: str, error: str
) -> None:
    page = client.get(f"/segments/funnels?{query}")
    assert page.status_code == 200
    assert error in field(page.text, name)
    assert "/segments/funnels/result" not in page.text


def test_a_funnel_over_unknown_events_counts_nobody_and_escapes_their_names(client: Browser) -> None:
    text = client.get("/segments/funnels/result?step=<b>x</b>&step=order").text
    assert "<b>x</b>" not in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "Nobody did the first step" in text


def test_members_of_a_step_that_is_not_there_are_not_found(client: Browser) -> None:
    assert client.get(f"/segments/funnels/members?{FUNNEL}&at=2").status_code == 404
    assert client.get("/segments/funnels/members?at=0").status_code == 404


# Paths


def test_paths_are_drawn_level_by_level(reader: Shop, client: Browser) -> None:
    start, end = moment(reader, date(2026, 1, 1)), moment(reader, date(2026, 3, 1))
    text = client.get(f"/segments/paths/result?{PATHS}", headers=HTMX).text
    kinds = re.findall(r'name="kind" value="(\w+)"', client.get("/segments/paths").text)
    asked = paths.Question("product_viewed", tuple(kinds), start, end, timedelta(days=30))
    found = paths.paths(open_engine(reader.settings), asked, moment(reader, AS_OF))
    series = chart(text, "paths")["option"]["series"][0]
    assert len(series["links"]) == len(found.links) > 2
    assert sum(link["value"] for link in series["links"] if link["source"].startswith("0 ")) == found.members
    assert series["data"][0] == {"name": "0 Product viewed", "depth": 0}
    assert {node["name"]: node.get("quiet", False) for node in series["data"]}["1 Nothing more"] is True


def test_choosing_kinds_leaves_the_others_out(client: Browser) -> None:
    text = client.get(f"/segments/paths/result?{PATHS}&kind=order").text
    names = {node["name"][2:] for node in chart(text, "paths")["option"]["series"][0]["data"]}
    assert names == {"Product viewed", "Order", "Nothing more"}
    assert text.count('type="checkbox"') > 1
    assert len(re.findall(r'name="kind" value="\w+" checked', text)) == 1


def test_paths_from_no_event_or_an_unknown_one_say_what_to_do(client: Browser) -> None:
    assert field(client.get("/segments/paths?event=").text, "event") == "Choose an event."
    assert field(client.get("/segments/paths?event=order&direction=up").text, "direction")
    assert "Nobody did this" in client.get("/segments/paths/result?event=unheard").text


# History


def test_the_history_of_a_segment_draws_its_size_and_who_came_and_went(client: Browser) -> None:
    text = client.get("/segments/dormant-buyers/history", headers=HTMX).text
    size, change = chart(text, "history-size"), chart(text, "history-moves")
    (counts,) = [series["data"] for series in size["option"]["series"]]
    entered, left = (series["data"] for series in change["option"]["series"])
    assert len(counts) == 2
    assert (entered[0], left[0]) == (None, None)
    assert counts[1] - counts[0] == entered[1] + left[1]
    assert entered[1] > 0 > left[1]


def test_a_segment_that_no_refresh_has_seen_says_what_will_come(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    rule = json.dumps({"field": "city", "op": "=", "value": "上海"})
    client.post("/segments/new", {"name": "shanghai", "title": "Shanghai", "rule": rule})
    assert "No refresh has looked at this segment yet" in client.get("/segments/shanghai/history").text
    assert client.get("/segments/nothing/history").status_code == 404


# Pictures


def test_a_shade_grows_with_the_share_and_only_nothing_is_blank() -> None:
    assert [charts.shade(value, 0.5) for value in (None, 0, -1, 0.0001, 0.25, 0.5, 9)] == [
        0, 0, 0, 1, 5, 10, 10
    ]  # fmt: skip
    assert charts.shade(1, 0) == 0


def test_levels_put_the_largest_first_and_what_is_quiet_last() -> None:
    steps = [
        charts.Step(0, "view", "end", 9),
        charts.Step(0, "view", "cart", 2),
        charts.Step(0, "view", "order", 3),
        charts.Step(1, "cart", "order", 1),
    ]
    found = charts.levels("x", "X", steps, headings=("a", "b", "c", "d"), quiet=("end",))
    series = found.option["series"][0]
    assert [node["name"] for node in series["data"]] == ["0 view", "1 order", "1 cart", "1 end", "2 order"]
    assert series["layoutIterations"] == 0
    assert found.table.rows[3] == ("2", "cart", "order", (1, charts.COUNT))


def test_a_flow_keeps_the_order_it_is_given() -> None:
    links = [charts.Flow("b", "a", 1), charts.Flow("a", "z", 2)]
    found = charts.flows("x", "X", links, headings=("f", "t", "n"), order=("z", "b", "a"))
    assert [node["name"] for node in found.option["series"][0]["data"]] == ["< b", "< a", "> z", "> a"]
    free = charts.flows("x", "X", links, headings=("f", "t", "n")).option["series"][0]
    assert [node["name"] for node in free["data"]] == ["< a", "< b", "> a", "> z"]
    assert free["layoutIterations"] > 0
