"""The verdict as a recommendation: a table of cases, in both languages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments import readout
from experiments.moments import ArmMoments, Moments
from experiments.readout import Known
from experiments.readout_advice import CHOOSE, NONE, OPEN, SEND, STOP, TEST, advise
from experiments.readout_form import BROKEN, KEPT, UNSURE, Guarded

N = 5000
Profits = dict[str, tuple[float, float]] | None
# revenue a member of A and B against 500.00 in the holdout (standard error 2.00), and the profits.
CASES: list[tuple[str, float, float, Profits, str, str, str]] = [
    ("B alone", 0, 20, None, SEND, "Send “B” to everyone: it brought ¥16.08 to ¥23.92 more revenue a member; “A” is undecided.", "建议全量发送“B”：人均收入多 ¥16.08 至 ¥23.92；“A”尚无定论。"),
    ("B pays, A lost", -20, 20, {"A": (-900e2, -100e2), "B": (100e2, 900e2)}, SEND, "Send “B” to everyone: it brought ¥16.08 to ¥23.92 more revenue a member, and earned ¥100 to ¥900 after all costs; “A” lost money.", "；“A”亏损。"),
    ("A helped, costs more than it earns", 8, 20, {"A": (-900e2, -100e2), "B": (100e2, 900e2)}, SEND, "; “A” lost money.", "；“A”亏损。"),
    ("both alike", 20, 21, None, CHOOSE, "Send “B” or “A”: both helped and cannot be told apart yet (“B” brought", "建议发送“B”或“A”"),
    ("A too, but B is better", 10, 20, None, SEND, "; “A” helped too.", "；“A”也有效。"),
    ("profit open", 0, 20, {"B": (-100e2, 900e2)}, TEST, "Go on testing “B”: it brought ¥16.08 to ¥23.92 more revenue a member, but whether that pays for its cost is open (profit -¥100 to ¥900); “A” is undecided.", "建议继续测试“B”"),
    ("costs more", -20, 20, {"B": (-900e2, -100e2)}, STOP, "Do not send “B” to everyone: it brought ¥16.08 to ¥23.92 more revenue a member, but cost more than it earned (profit -¥900 to -¥100); “A” did worse than nothing.", "不建议全量发送“B”"),
    ("all worse", -10, -20, None, STOP, "Stop “B”: it brought ¥16.08 to ¥23.92 less revenue a member; “A” did worse than nothing.", "建议停止“B”：人均收入少 ¥16.08 至 ¥23.92"),
    ("open", 1, 0, None, OPEN, "Not decided yet: the effect of “A” lies between -¥2.92 and ¥4.92 (revenue a member); about", "尚无定论：“A”对人均收入的影响在 -¥2.92 与 ¥4.92 之间；约需再增加"),
    ("open and worse", 1, -20, None, OPEN, "would decide it; “B” did worse than nothing.", "；“B”不如不发。"),
]  # fmt: skip


def found(a: float, b: float, n: int = N, known: Known | None = None, **more: int) -> readout.ReadOut:
    def arm(mean: float) -> ArmMoments:
        return ArmMoments(n, {"revenue": Moments(n, mean * 100, 1e8)}, {}, **more)

    weights = {"holdout": 1 / 3, "A": 1 / 3, "B": 1 / 3}
    arms = {"holdout": arm(500.0), "A": arm(500.0 + a), "B": arm(500.0 + b)}
    return readout.read_out(arms, weights, "holdout", currency="CNY", known=known)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_the_sentence_recommends(case: tuple[str, float, float, Profits, str, str, str]) -> None:
    _, a, b, profits, kind, english, chinese = case
    out = found(a, b)
    advice = advise(out, "en", profits=profits)
    assert advice.kind == kind
    assert english in advice.sentence
    assert chinese in advise(out, "zh_CN", profits=profits).sentence
    assert advice.sentence.endswith(".")
    assert advise(out, "zh_CN", profits=profits).sentence.endswith("。")


def test_an_arm_that_broke_a_planned_guardrail_is_not_recommended() -> None:
    def guarded(arm: str, state: str) -> Guarded:
        return Guarded("returns", 1, arm, 0.05, state)

    plain = found(0, 20)
    out = replace(plain, guardrails=[guarded("A", KEPT), guarded("B", BROKEN)])
    advice = advise(out, "en")
    assert (advice.kind, advice.arms) == (STOP, ("B",))
    assert "Do not send “B” to everyone: it brought ¥16.08 to ¥23.92 more" in advice.sentence
    assert "but broke the guardrail “returns”; “A” is undecided." in advice.sentence
    assert "突破了护栏指标“returns”" in advise(out, "zh_CN").sentence
    # Another arm that kept it is recommended, though it brought less.
    both = replace(found(12, 20), guardrails=[guarded("A", KEPT), guarded("B", BROKEN)])
    assert (advise(both, "en").kind, advise(both, "en").arms[0]) == (SEND, "A")
    unsure = replace(plain, guardrails=[guarded("B", UNSURE)])
    assert advise(unsure, "en").kind == SEND


def test_a_broken_guardrail_is_called_by_its_title_in_the_readers_language() -> None:
    broken = [Guarded(metric, 1, "B", 0.1, BROKEN) for metric in ("return_rate", "complaints")]
    out = replace(found(0, 20), guardrails=broken)
    assert "broke the guardrail “Return rate”, “complaints”;" in advise(out, "en").sentence
    assert "突破了护栏指标“退款率”、“complaints”；" in advise(out, "zh_CN").sentence


def test_a_broken_split_recommends_nothing() -> None:
    out = found(0, 20, known=Known(previous_p=1e-9))
    advice = advise(out, "en")
    assert (advice.kind, advice.arms) == (NONE, ())
    assert advice.sentence.startswith("No recommendation: the arms are not split as planned (p < 0.001)")
    assert "“B”" not in advise(out, "zh_CN").sentence


def test_a_small_sample_an_empty_one_and_nobody_recommend_nothing() -> None:
    assert "smallest arm has 90 members, 100 are needed" in advise(found(0, 20, n=90), "en").sentence
    nobody = readout.read_out({}, {"hold": 0.5, "send": 0.5}, "hold")
    assert advise(nobody, "en").sentence == "No recommendation yet: nobody was assigned."
    assert advise(nobody, "zh").sentence == "暂不建议：尚无成员分组。"
    lonely = readout.read_out(
        {"send": ArmMoments(9, {"revenue": Moments(9, 1, 1)}, {})}, {"hold": 0.0, "send": 1.0}, "hold"
    )
    assert "control arm has 0 members" in advise(lonely, "en").sentence


def test_open_windows_make_it_preliminary() -> None:
    assert advise(found(0, 20, open_windows=3), "en").sentence.startswith("Preliminary: Send “B”")
    assert advise(found(0, 20, open_windows=3), "zh").sentence.startswith("初步结果：建议全量发送“B”")


def test_a_second_look_asks_for_more_before_it_recommends() -> None:
    assert advise(found(0, 5.5), "en").kind == SEND
    assert advise(found(0, 5.5, known=Known(looks=4)), "en").kind == OPEN


def test_conversion_is_in_percentage_points() -> None:
    def arm(share: float) -> ArmMoments:
        return ArmMoments(N, {"converted": Moments(N, share, share * (1 - share))}, {})

    out = readout.read_out({"hold": arm(0.1), "send": arm(0.14)}, {"hold": 0.5, "send": 0.5}, "hold")
    assert advise(out, "en", "converted").sentence == (
        "Send “send” to everyone: it brought 2.73 to 5.27 more percentage points of conversion."
    )


def test_days_are_named_where_members_still_join() -> None:
    out = found(1, 0)
    result = out.results[0]
    assert result.need_estimate is not None
    joining = replace(
        out, results=[replace(result, need_estimate=replace(result.need_estimate, days=12)), *out.results[1:]]
    )
    assert "(12 days) would decide it" in advise(joining, "en").sentence
