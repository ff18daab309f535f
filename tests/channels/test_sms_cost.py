"""What SMS cost before they are sent, and the text that is counted."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from channels.consent import MARKETING, TRANSACTIONAL
from channels.sms.cost import country_of, estimate, message_cost, prices, to_minor
from channels.sms.text import arriving, has_opt_out, outgoing
from core.errors import InvalidInput
from core.settings import Settings

CN, HK, US, UK = "+8613800138000", "+85251234567", "+12125550100", "+442071234567"


def shop(**changes: object) -> Settings:
    found = {"sms_prices": "CN:0.045 US:0.0079 *:0.05", **changes}
    return Settings(_env_file=None, **found)  # type: ignore[arg-type]


def test_prices_go_by_country_and_segment() -> None:
    found = estimate(shop(), {CN: "好" * 66, HK: "好" * 70, US: "a" * 10, UK: "a"})
    # 【回流】 makes 70 of 66 characters; abroad it is in front as well: Aliyun puts it there.
    assert found.segments_by_country == {"CN": 1, "HK": 2, "US": 1, "GB": 1}
    # 0.045 + 0.1 + 0.0079 + 0.05 = 0.2029, up to 21 cents.
    assert (found.messages, found.segments, found.cost_minor, found.currency) == (4, 5, 21, "CNY")
    assert estimate(shop(), {}).cost_minor == 0


def test_a_signature_may_cost_another_segment() -> None:
    assert [message_cost(shop(), "好" * n, CN).count.segments for n in (66, 67)] == [1, 2]
    assert message_cost(shop(), "好" * 67, CN).cost_micro == 90_000
    assert message_cost(shop(sms_provider="twilio"), "好" * 67, CN, TRANSACTIONAL).count.segments == 1
    assert estimate(shop(), {CN: "好" * 497}).too_long == 1
    assert estimate(shop(), {CN: "好" * 496}).too_long == 0


def test_a_thousand_messages_are_rounded_once() -> None:
    assert estimate(shop(), [(US, "a")] * 1000).cost_minor == 790
    assert estimate(shop(shop_currency="JPY"), [(US, "a")] * 1000).cost_minor == 8
    assert estimate(shop(shop_currency="KWD"), [(US, "a")] * 1000).cost_minor == 7900
    assert to_minor(1, "CNY") == 1


@given(st.lists(st.integers(0, 400), max_size=30))
def test_a_sum_is_never_below_nor_a_cent_above_its_parts(lengths: list[int]) -> None:
    settings = shop(sms_prices="CN:0.0333333")
    found = estimate(settings, [(CN, "好" * length) for length in lengths])
    exact = sum(
        (Decimal("0.0333333") * message_cost(settings, "好" * n, CN).count.segments for n in lengths),
        Decimal(),
    )
    assert exact * 100 <= found.cost_minor < exact * 100 + 1 + Decimal("0.0001") * len(lengths)


@pytest.mark.parametrize("text", ["CN", "CN:x", "XX:1", "CN:-1", "CN:NaN", "cn:0.1", "CN:101"])
def test_prices_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="HUILIU_SMS_PRICES"):
        prices(text)


def test_a_country_without_a_price_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no price for US"):
        estimate(shop(sms_prices="CN:0.045"), {US: "a"})
    assert [country_of(phone) for phone in (CN, HK, US, UK, "+1", "x")] == ["CN", "HK", "US", "GB", "", ""]


def test_what_arrives_has_its_signature_and_its_way_out() -> None:
    twilio, mixed = shop(sms_provider="twilio"), shop(sms_provider="tencent", sms_provider_abroad="twilio")
    assert arriving(shop(), "满减", CN, MARKETING) == "【回流】满减"
    assert arriving(shop(), "【别家】满减", CN, MARKETING) == "【别家】满减"
    assert arriving(mixed, "Sale", US, MARKETING) == "Sale Reply STOP to opt out"
    assert arriving(mixed, "满减", CN, MARKETING) == "【回流】满减"
    assert arriving(shop(sms_provider="tencent"), "Sale", US, MARKETING) == "Sale"
    assert outgoing(twilio, "满减", CN, MARKETING) == "满减，拒收请回复R"
    assert outgoing(twilio, "满减", CN, TRANSACTIONAL) == "满减"
    assert outgoing(shop(sms_provider="twilio", sms_opt_out_abroad=""), "Sale", US, MARKETING) == "Sale"


@pytest.mark.parametrize(
    ("text", "phone", "expected"),
    [
        ("满减，拒收请回复R", CN, True),
        ("满减，退订回T", CN, True),
        ("满减", CN, False),
        ("Sale. Text stop to end.", US, True),
        ("Sale. Reply STOP to opt out", US, True),
        ("Don't stop shopping at our store, every day until the end of May!", US, False),
        ("满减，退订回T", US, True),
    ],
)
def test_a_way_out_is_recognised_at_the_end(text: str, phone: str, expected: bool) -> None:
    assert has_opt_out(shop(), text, phone) is expected
    twilio = shop(sms_provider="twilio")
    assert (outgoing(twilio, text, phone, MARKETING) == text) is expected
