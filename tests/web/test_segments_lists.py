"""Static lists and tags in the console: uploads as people have them, changes, freezing, and who may."""

from __future__ import annotations

import io
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.errors import Conflict, InvalidInput
from core.models import AuditEntry, Job, Member
from segments import lists
from segments.models import MemberList, MemberListEntry
from tests.web import seed
from tests.web.conftest import Browser, Shop
from web import uploads
from web.console import lists as pages

VIP = {"field": "tags", "op": "matches_any", "value": ["vip"]}


def upload(client: Browser, address: str, content: bytes | str, **fields: str) -> Any:
    data = content.encode() if isinstance(content, str) else content
    form = {"csrf_token": client.token(), "file": (io.BytesIO(data), "ids.csv"), **fields}
    return client.client.post(address, data=form, content_type="multipart/form-data", headers=client.headers)


def ids_on(shop: Shop, name: str) -> list[str]:
    with shop.database.read() as session:
        query = (
            sa.select(Member.external_id)
            .join(MemberListEntry, MemberListEntry.member_id == Member.id)
            .join(MemberList, MemberList.id == MemberListEntry.list_id)
            .where(MemberList.name == name)
            .order_by(Member.external_id)
        )
        return list(session.scalars(query))


def wait_for_work() -> None:
    for thread in threading.enumerate():
        if thread.name.startswith(("list:", "tags:")):
            thread.join(timeout=30)


# Files


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"member_id\nM1\nM2\n", ["M1", "M2"]),
        (b"M1\r\nM2\r\n\r\n", ["M1", "M2"]),
        (b"name,Member_ID\nAnn,M1\nBob, M2 \nEve,\n", ["M1", "M2"]),
        (b"\xef\xbb\xbfmember_id;name\nM1;x\n", ["M1"]),
        (b"member_id\tname\nM1\tx\n", ["M1"]),
        ("会员编号,姓名\n甲1,张伟\n".encode("gbk"), ["甲1"]),
        ("会员编号,姓名\n甲1,张伟\n".encode(), ["甲1"]),
        ("member_id\nM1\n".encode("utf-16"), ["M1"]),
        (b'name,member_id\n"a ""quoted"", one",M1\n', ["M1"]),
        (b"M1", ["M1"]),
    ],
)
def test_ids_are_read_out_of_files_as_people_have_them(
    tmp_path: Path, content: bytes, found: list[str]
) -> None:
    path = tmp_path / "ids.csv"
    path.write_bytes(content)
    assert list(uploads.ids_in(path)) == found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"PK\x03\x04rest", "workbook"),
        (b"name,city\nAnn,Rome\n", "call the one with the ids member_id"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "no text"),
    ],
)
def test_a_file_that_cannot_be_a_list_is_refused_before_anything_is_written(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "ids.csv"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=message):
        uploads.ids_in(path)


def test_a_letter_on_the_border_of_two_pieces_does_not_change_the_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "CHUNK_BYTES", 4)
    path = tmp_path / "ids.csv"
    path.write_text("会员编号\n甲乙丙丁\n", encoding="utf-8")
    assert list(uploads.ids_in(path)) == ["甲乙丙丁"]


def test_pasted_ids_are_parted_by_lines_commas_and_semicolons() -> None:
    assert uploads.pasted(" M1, M2;M3；M4\n\nM5\tM6，M7 ") == ["M1", "M2", "M3", "M4", "M5", "M6", "M7"]


# Pages


def test_a_list_is_uploaded_and_what_is_unknown_is_reported_and_can_be_fetched(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    answer = upload(
        client,
        "/segments/lists/new",
        "member_id\nM0001\nM0002\nM0001\nX1\nX2\n",
        name="guests",
        title="Guests",
    )
    assert (answer.status_code, answer.headers["Location"]) == (303, "/segments/lists/guests")
    assert ids_on(shop, "guests") == ["M0001", "M0002"]
    text = client.get("/segments/lists/guests").text
    assert "2 members are new on the list." in text
    assert "X1, X2" in text
    fetched = client.get("/segments/lists/guests/unknown")
    assert fetched.headers["Content-Disposition"] == "attachment; filename=guests-unknown.csv"
    assert fetched.data.decode("utf-8-sig").split() == ["member_id", "X1", "X2"]
    fetched.close()
    assert "Guests" in client.get("/segments/lists").text
    upload(client, "/segments/lists/guests/members", "M0003", how="add")
    assert client.get("/segments/lists/guests/unknown").status_code == 404


def test_ids_are_pasted_added_replaced_and_taken_off(shop: Shop) -> None:
    client = shop.client()
    client.post("/segments/lists/new", {"name": "few", "title": "Few", "ids": "M0001, M0002"})
    client.post("/segments/lists/few/members", {"how": "add", "ids": "M0002\nM0003"})
    assert ids_on(shop, "few") == ["M0001", "M0002", "M0003"]
    client.post("/segments/lists/few/members", {"how": "remove", "ids": "M0001 \n M0009"})
    assert ids_on(shop, "few") == ["M0002", "M0003"]
    refused = client.post("/segments/lists/few/members", {"how": "replace", "ids": "M0007"})
    assert refused.status_code == 422
    assert "M0007" in refused.text
    assert ids_on(shop, "few") == ["M0002", "M0003"]
    client.post("/segments/lists/few/members", {"how": "replace", "ids": "M0007", "confirm": "few"})
    assert ids_on(shop, "few") == ["M0007"]
    with shop.database.read() as session:
        actions = session.scalars(
            sa.select(AuditEntry.action).where(AuditEntry.object_type == "list").order_by(AuditEntry.id)
        ).all()
    assert list(actions) == ["create", "add to", "add to", "remove from", "replace"]


def test_a_form_with_an_error_comes_back_as_typed_and_makes_nothing(shop: Shop) -> None:
    client = shop.client()
    page = client.post("/segments/lists/new", {"name": "Bad Name", "title": "Mine", "ids": "M0001"})
    assert page.status_code == 422
    assert 'value="Mine"' in page.text
    assert "M0001" in page.text
    assert "lower-case" in page.text
    assert client.post("/segments/lists/new", {"name": "x", "title": "X"}).status_code == 422
    assert client.post("/segments/lists/new", {"name": "new", "title": "X", "ids": "M1"}).status_code == 422
    page = upload(client, "/segments/lists/new", b"PK\x03\x04", name="x", title="X")
    assert "workbook" in page.text
    with shop.database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(MemberList)) == 0


def test_a_large_file_is_loaded_in_the_background(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "AT_ONCE_BYTES", 10)
    client = shop.client()
    rows = "\n".join(f"M{n:04d}" for n in range(300))
    answer = upload(client, "/segments/lists/new", f"member_id\n{rows}\n", name="all", title="All")
    assert answer.status_code == 303
    wait_for_work()
    assert len(ids_on(shop, "all")) == 240
    with shop.database.read() as session:
        job = session.scalars(sa.select(Job).where(Job.kind == "list")).one()
    assert (job.label, job.state, job.done, job.total) == ("List all", "done", 300, 300)
    assert "M0240" in client.get("/segments/lists/all").text


def test_a_list_is_renamed_archived_and_restored_unless_a_rule_uses_it(shop: Shop) -> None:
    client = shop.client()
    client.post("/segments/lists/new", {"name": "few", "title": "Few", "ids": "M0001"})
    assert (
        client.post("/segments/lists/few/rename", {"name": "two", "title": "Two"})
        .headers["Location"]
        .endswith("/two")
    )
    rule = json.dumps({"list": "two"})
    client.post("/segments/new", {"name": "on-two", "title": "On two", "rule": rule})
    text = client.get("/segments/lists/two").text
    assert "/segments/on-two" in text
    page = client.post("/segments/lists/two/rename", {"name": "three", "title": "Three"})
    assert page.status_code == 422
    assert "is used by the segments on-two" in page.text
    client.post("/segments/lists/two/archive", headers={"Referer": "http://localhost/segments/lists/two"})
    assert "is used by the segments on-two" in client.get("/segments/lists/two").text
    client.post("/segments/on-two/archive")
    assert client.post("/segments/lists/two/archive").headers["Location"] == "/segments/lists"
    assert "Two" in client.get("/segments/lists?archived=1").text
    client.post("/segments/lists/two/restore")
    assert "Two" in client.get("/segments/lists").text


def test_a_segment_is_frozen_and_the_list_stays_when_its_members_move_on(shop: Shop) -> None:
    client = shop.client()
    text = client.get("/segments/vip").text
    assert 'value="vip-20260301"' in text
    answer = client.post("/segments/vip/freeze", {"name": "vip-20260301", "title": "VIP in March"})
    assert answer.headers["Location"] == "/segments/lists/vip-20260301"
    frozen = ids_on(shop, "vip-20260301")
    assert len(frozen) == 22
    assert "Frozen from “vip” on 2026-03-01" in client.get("/segments/lists/vip-20260301").text
    counted = client.post("/segments/count", {"rule": json.dumps({"list": "vip-20260301"})}).text
    assert "there is no list" not in counted


def test_a_large_segment_is_frozen_in_the_background_and_a_taken_name_is_refused_at_once(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "AT_ONCE_MEMBERS", 3)
    client = shop.client()
    client.post("/segments/vip/freeze", {"name": "vips", "title": "VIPs"})
    wait_for_work()
    assert len(ids_on(shop, "vips")) == 22
    refused = client.post("/segments/vip/freeze", {"name": "vips", "title": "Again"})
    assert refused.status_code == 409
    assert len(ids_on(shop, "vips")) == 22


def test_members_of_a_list_come_in_pages_and_the_erased_are_gone(shop: Shop) -> None:
    client = shop.client()
    rows = ",".join(f"M{n:04d}" for n in range(70))
    client.post("/segments/lists/new", {"name": "many", "title": "Many", "ids": rows})
    assert len(set(re.findall(r'href="/members/(\d+)"', client.get("/segments/lists/many").text))) == 50
    assert (
        len(set(re.findall(r'href="/members/(\d+)"', client.get("/segments/lists/many?page=2").text))) == 20
    )
    client.post("/members/1/erase", {"confirm": "M0000"})
    assert len(ids_on(shop, "many")) == 69


# Made of what another page found


def test_a_cell_of_the_moves_becomes_a_list(shop: Shop) -> None:
    client = shop.client()
    text = client.get("/segments/moves/result", headers={"HX-Request": "true"}).text
    address = re.search(r'href="(/segments/moves/members\?[^"]+)"', text)
    assert address is not None
    page = client.get(address.group(1).replace("&amp;", "&")).text
    found = set(re.findall(r'href="/members/(\d+)"', page))
    action = re.search(r'action="(/segments/moves/members/list\?[^"]+)"', page)
    assert action is not None
    answer = client.post(action.group(1).replace("&amp;", "&"), {"name": "movers", "title": "Movers"})
    assert answer.headers["Location"] == "/segments/lists/movers"
    with shop.database.read() as session:
        entries = set(session.scalars(sa.select(MemberListEntry.member_id)))
    assert {str(one) for one in entries} >= found
    assert len(entries) > 0
    assert "Found by moves" in client.get("/segments/lists").text


def test_a_step_of_a_funnel_becomes_a_list(shop: Shop) -> None:
    client = shop.client()
    query = "step=product_viewed&step=order&from=2025-12-01&to=2026-02-28&window=30&unit=d&at=0&dropped=1"
    page = client.get(f"/segments/funnels/members?{query}").text
    action = re.search(r'action="(/segments/funnels/members/list\?[^"]+)"', page)
    assert action is not None
    client.post(action.group(1).replace("&amp;", "&"), {"name": "lookers", "title": "Lookers"})
    shown = set(re.findall(r'href="/members/(\d+)"', page))
    with shop.database.read() as session:
        entries = {str(one) for one in session.scalars(sa.select(MemberListEntry.member_id))}
    assert shown <= entries
    assert len(entries) > 50  # more than the page that was shown


def test_a_list_of_found_members_leaves_out_the_unknown_and_the_erased(shop: Shop) -> None:
    with shop.database.write() as session:
        erased = session.get(Member, 2)
        assert erased is not None
        erased.erased_at = seed.NOW
        made = lists.create_of_members(
            session,
            name="found",
            title="Found",
            member_ids=[1, 2, 3, 3, 999_999],
            by="a",
            now=seed.NOW,
            origin="x",
        )
        assert made == 2
        with pytest.raises(Conflict):
            lists.create_of_members(
                session, name="found", title="Again", member_ids=[1], by="a", now=seed.NOW
            )
    assert ids_on(shop, "found") == ["M0000", "M0002"]


# Tags


def tags_of(shop: Shop, member_id: int) -> list[str]:
    with shop.database.read() as session:
        member = session.get(Member, member_id)
        assert member is not None
        return member.tags


def test_a_tag_is_put_on_a_member_and_taken_off_again(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    client.post("/members/2/tags", {"op": "add", "tag": " first  try "})
    assert tags_of(shop, 2) == ["first try"]
    assert "Take off the tag first try" in client.get("/members/2").text
    client.post("/members/2/tags", {"op": "add", "tag": "a;b"})
    assert "no semicolon" in client.get("/members/2").text
    client.post("/members/2/tags", {"op": "remove", "tag": "first try"})
    assert tags_of(shop, 2) == []
    assert client.post("/members/999999/tags", {"op": "add", "tag": "x"}).status_code == 404
    assert 'name="tag"' not in shop.client("analyst@example.com").get("/members/2").text


def test_everybody_in_a_segment_is_tagged_once_its_name_is_typed(shop: Shop) -> None:
    client = shop.client("marketer@example.com")
    client.post("/segments/vip/tags", {"op": "add", "tag": "spring", "confirm": "wrong"})
    wait_for_work()
    assert tags_of(shop, 1) == ["coffee", "vip"]
    client.post("/segments/vip/tags", {"op": "add", "tag": "spring", "confirm": "vip"})
    wait_for_work()
    with shop.database.read() as session:
        tagged = [one for (one,) in session.execute(sa.select(Member.tags)) if "spring" in one]
        job = session.scalars(sa.select(Job).where(Job.kind == "tags")).one()
        audit = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "tag")).one()
    assert len(tagged) == 22
    assert (job.state, job.done, job.total) == ("done", 22, 22)
    assert (audit.object_type, audit.object_id, audit.actor) == ("segment", "vip", "marketer@example.com")
    assert audit.detail == {"tag": "spring", "members": 22, "changed": 22}


def test_a_tag_is_taken_off_everybody_on_a_list(shop: Shop) -> None:
    client = shop.client()
    client.post("/segments/lists/new", {"name": "few", "title": "Few", "ids": "M0000, M0001"})
    client.post("/segments/lists/few/tags", {"op": "remove", "tag": "vip", "confirm": "few"})
    wait_for_work()
    assert tags_of(shop, 1) == ["coffee"]
    with shop.database.read() as session:
        audit = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "untag")).one()
    assert audit.detail == {"tag": "vip", "members": 2, "changed": 1}
    assert "Tag taken off · vip, 1 members" in client.get("/segments/lists/few").text


def test_a_bad_tag_starts_no_work(shop: Shop) -> None:
    client = shop.client()
    answer = client.post("/segments/vip/tags", {"op": "add", "tag": "a;b", "confirm": "vip"})
    assert answer.status_code == 422
    with shop.database.read() as session:
        assert session.scalar(sa.select(sa.func.count()).where(Job.kind == "tags")) == 0


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pages_of_lists_render_on_both_databases(any_shop: Shop, language: str) -> None:
    client = any_shop.client(language=language)
    for address in ("/segments/lists", "/segments/lists?archived=1", "/segments/lists/new"):
        page = client.get(address)
        assert page.status_code == 200, address
        assert f'<html lang="{"zh-CN" if language == "zh" else "en"}">' in page.text
    assert client.get("/segments/lists/nothing").status_code == 404
