"""The console's pages of a coupon batch: every rule, links with QR codes, files in and out."""

from __future__ import annotations

import io

import sqlalchemy as sa

from core.models import AuditEntry
from loyalty.models import ClaimLink, Coupon, CouponBatch
from tests.web.conftest import Shop

FIELDS = {
    "title": "Spring", "name": "spring-x", "type": "fixed", "amount": "20", "settlement_share": "100",
    "activation": "days", "activation_days": "2", "valid_months": "1", "daily_limit": "5",
    "daily_per_member_limit": "1", "budget": "1000.50", "transferable": "1", "reminder_days": "3",
}  # fmt: skip


def test_every_rule_of_the_form_is_stored_and_said(shop: Shop) -> None:
    browser = shop.client()
    assert browser.get("/loyalty/batches/new").status_code == 200
    answer = browser.post("/loyalty/batches/new", FIELDS)
    assert answer.status_code == 303
    with shop.database.read() as session:
        made = session.scalars(sa.select(CouponBatch).where(CouponBatch.name == "spring-x")).one()
    assert (made.activation, made.activation_days, made.valid_months) == ("days", 2, 1)
    assert (made.daily_limit, made.daily_per_member_limit, made.budget_minor) == (5, 1, 100_050)
    assert (made.transferable, made.reminder_days, made.timezone) == (True, 3, "Asia/Shanghai")
    page = browser.get(answer.headers["Location"]).text
    for words in ("2 days after it was given", "At most 5 codes", "Members may hand their codes on"):
        assert words in page
    wrong = browser.post("/loyalty/batches/new", {**FIELDS, "name": "b", "generic_code": "SPRING26"})
    assert wrong.status_code == 422
    assert 'value="SPRING26"' in wrong.text
    assert "it becomes valid at once" in wrong.text


def test_a_link_is_made_shown_with_its_qr_code_and_closed(shop: Shop) -> None:
    browser = shop.client()
    page = browser.post("/loyalty/batches/new", FIELDS).headers["Location"]
    assert browser.post(f"{page}/links", {"title": "At the door", "limit": "9"}).status_code == 303
    with shop.database.read() as session:
        link = session.scalars(sa.select(ClaimLink)).one()
    shown = browser.get(page).text
    assert f"/claim/{link.token}" in shown
    assert "<svg" in shown.split('class="qr">')[1][:10]
    assert browser.get(f"/claim/{link.token}").status_code == 200
    assert browser.post(f"{page}/links/{link.id}/archive").status_code == 303
    assert link.token not in browser.get(page).text
    assert browser.post(f"/loyalty/batches/999/links/{link.id}/archive").status_code == 404


def test_codes_of_a_file_come_in_and_go_out_under_audit(shop: Shop) -> None:
    browser = shop.client()
    page = browser.post("/loyalty/batches/new", FIELDS).headers["Location"]

    def load(**more: str) -> None:
        file = (io.BytesIO(b"code,member_id\nold-1,\nOLD1,\nold-2,\n"), "codes.csv")
        answer = browser.post(f"{page}/import", {"file": file, **more})
        assert answer.status_code == 303

    load(dry_run="1")
    assert "Tried only" in browser.get(page).text
    with shop.database.read() as session:
        assert session.scalars(sa.select(Coupon.code).where(Coupon.foreign)).all() == []
    load()
    assert "2 codes loaded" in browser.get(page).text
    refused = browser.get(f"{page}/rejects.csv")
    assert refused.text.splitlines() == ["line,reason,code,member_id", "3,The code is in line 2 too.,OLD1,"]
    refused.close()
    assert f'{page}/rejects.csv"' in browser.get(page).text
    assert shop.client("analyst@example.com").get(f"{page}/rejects.csv").status_code == 403
    exported = browser.get(f"{page}/codes.csv")
    lines = exported.text.splitlines()
    assert lines[0] == "code,state,issued_at,valid_from,valid_until"
    assert [line.split(",")[:2] for line in lines[1:]] == [["OLD1", "issued"], ["OLD2", "issued"]]
    with shop.database.read() as session:
        actions = session.scalars(
            sa.select(AuditEntry.action).where(AuditEntry.object_type == "coupon_batch")
        ).all()
    assert {"import", "export"} <= set(actions)
    right = (io.BytesIO(b"code\nold-3\n"), "codes.csv")
    browser.post(f"{page}/import", {"file": right})
    assert browser.get(f"{page}/rejects.csv").status_code == 404, "the newest file had no refused line"
    assert "rejects.csv" not in browser.get(page).text
    assert shop.client("analyst@example.com").get(f"{page}/codes.csv").status_code == 403
