"""What to do, in one sentence, from a read-out and its profits: the verdict a growth team acts on. Pure.

Guarantees: no recommendation where the arms are not split as planned or too small; an arm is recommended only
where its interval leaves nothing out (and its profit's too, where there is one); an arm that cannot be told
from the best one is named beside it; who was looked at before is judged by intervals that allow that, but for
a plan's one look on its day; an arm that broke a planned guardrail is never recommended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from experiments.moments import REVENUE
from experiments.readout_form import BROKEN, MONEY, ReadOut, Result
from experiments.readout_words import Said, Shower, language_of, points, shown_p, split_p, title
from experiments.stats.effect import Effect

SEND, CHOOSE, TEST, STOP, OPEN, NONE = "send", "choose", "test", "stop", "open", "none"
"""Send it to everyone; several are as good; promising, but not paid for yet; stop, for it costs more than it
brings or harms what the plan guards; not decided; no word."""
SURELY = 0.95
"""Chance to be the best from which an arm is recommended alone."""
Range = tuple[float, float]


@dataclass(frozen=True)
class Advice:
    """``kind`` is one of the above, ``arms`` are those it names first, ``sentence`` says it."""

    kind: str
    arms: tuple[str, ...]
    sentence: str


_WORDS = {
    "en": {
        "srm": "No recommendation: the arms are not split as planned (p {p}). Find out why first.",
        "nothing": "No recommendation yet: {why}",
        "nobody": "nobody was assigned.",
        "small": "No recommendation yet: the smallest arm has {smallest} members, {needed} are needed.",
        "send": "Send “{arm}” to everyone: it brought {low} to {high} {much} {thing}{profit}",
        "choose": "Send “{arm}” or “{other}”: both helped and cannot be told apart yet "
        "(“{arm}” brought {low} to {high} {much} {thing}{profit})",
        "test": "Go on testing “{arm}”: it brought {low} to {high} {much} {thing}, but whether that pays for "
        "its cost is open (profit {profit_low} to {profit_high})",
        "cost": "Do not send “{arm}” to everyone: it brought {low} to {high} {much} {thing}, but cost more "
        "than it earned (profit {profit_low} to {profit_high})",
        "harm": "Do not send “{arm}” to everyone: it brought {low} to {high} {much} {thing}, but broke the "
        "guardrail “{guardrail}”",
        "stop": "Stop “{arm}”: it brought {low} to {high} {little} {thing}",
        "open": "Not decided yet: the effect of “{arm}” lies between {low} and {high} ({thing}){need}",
        "profit": ", and earned {profit_low} to {profit_high} after all costs",
        "need": "; about {more} more members would decide it",
        "need_days": "; about {more} more members ({days} days) would decide it",
        "lost": "; “{arm}” lost money",
        "worse": "; “{arm}” did worse than nothing",
        "helped": "; “{arm}” helped too",
        "undecided": "; “{arm}” is undecided",
        "early": "Preliminary: ",
        "end": ".",
    },
    "zh": {
        "srm": "暂不建议：各组人数与计划的比例不符（p {p}），请先查明原因。",
        "nothing": "暂不建议：{why}",
        "nobody": "尚无成员分组。",
        "small": "暂不建议：人数最少的组只有 {smallest} 人，至少需要 {needed} 人。",
        "send": "建议全量发送“{arm}”：{thing}{much} {low} 至 {high}{profit}",
        "choose": "建议发送“{arm}”或“{other}”：两者都有效，目前无法分出高下"
        "（“{arm}”使{thing}{much} {low} 至 {high}{profit}）",
        "test": "建议继续测试“{arm}”：{thing}{much} {low} 至 {high}，但能否覆盖成本尚不确定"
        "（利润 {profit_low} 至 {profit_high}）",
        "cost": "不建议全量发送“{arm}”：{thing}虽{much} {low} 至 {high}，但成本高于收益"
        "（利润 {profit_low} 至 {profit_high}）",
        "harm": "不建议全量发送“{arm}”：{thing}虽{much} {low} 至 {high}，但突破了护栏指标“{guardrail}”",
        "stop": "建议停止“{arm}”：{thing}{little} {low} 至 {high}",
        "open": "尚无定论：“{arm}”对{thing}的影响在 {low} 与 {high} 之间{need}",
        "profit": "，扣除全部成本后盈利 {profit_low} 至 {profit_high}",
        "need": "；约需再增加 {more} 名会员才能定论",
        "need_days": "；约需再增加 {more} 名会员（{days} 天）才能定论",
        "lost": "；“{arm}”亏损",
        "worse": "；“{arm}”不如不发",
        "helped": "；“{arm}”也有效",
        "undecided": "；“{arm}”尚无定论",
        "early": "初步结果：",
        "end": "。",
    },
}
_MORE_LESS = {"en": ("more", "less"), "zh": ("多", "少")}


@dataclass(frozen=True)
class _Arm:
    """An arm judged: its effect, its profit where there is one, and whether it is better or worse; ``sign``
    is −1 of a metric of which less is better."""

    result: Result
    effect: Effect
    profit: Range | None
    sign: int = 1

    @property
    def name(self) -> str:
        return self.result.arm

    @property
    def gain(self) -> Range:
        """The effect's interval, what is better above 0."""
        low, high = self.effect.low, self.effect.high
        return (low, high) if self.sign > 0 else (-high, -low)

    @property
    def better(self) -> bool:
        return self.gain[0] > 0

    @property
    def worse(self) -> bool:
        return self.gain[1] < 0

    @property
    def pays(self) -> bool:
        return self.better and (self.profit is None or self.profit[0] > 0)

    @property
    def loses(self) -> bool:
        return self.profit is not None and self.profit[1] < 0


def advise(
    readout: ReadOut,
    locale: str,
    metric: str | None = None,
    profits: Mapping[str, Range] | None = None,
    said: Said = str,
) -> Advice:
    """The recommendation in English or Chinese (any ``zh…`` locale).

    ``metric``: None for the read-out's goal; ``profits``: arm → the interval of its profit in minor units;
    arms without one are judged by ``metric`` alone; ``said`` translates a refusal.
    """
    language = language_of(locale)
    words = _WORDS[language]
    metric = metric or readout.goal or REVENUE
    if not readout.trusted:
        return Advice(NONE, (), words["srm"].format(p=shown_p(split_p(readout))))
    mine = [result for result in readout.results if result.metric == metric]
    if not mine:
        return Advice(NONE, (), words["nothing"].format(why=words["nobody"]))
    size = readout.check("sample_size")
    arms = []
    for result in mine:
        effect = readout.headline(result)
        if effect is not None:
            profit = (profits or {}).get(result.arm)
            arms.append(_Arm(result, effect, profit, readout.sign(metric)))
    if not arms:
        return Advice(NONE, (), words["nothing"].format(why=said(mine[0].refused or "")))
    if size is not None and not size.ok:
        return Advice(NONE, (), words["small"].format(**size.detail))
    write = _Writer(readout, metric, language)
    kind, named, text = _judge(_unharmed(arms, readout), arms, write)
    closed = readout.check("windows_closed")
    early = words["early"] if closed is not None and not closed.ok else ""
    return Advice(kind, named, early + text + words["end"])


def _broken(arm: str, readout: ReadOut) -> list[str]:
    return [one.metric for one in readout.guardrails if one.arm == arm and one.state == BROKEN]


def _unharmed(arms: list[_Arm], readout: ReadOut) -> list[_Arm]:
    """Those that broke no planned guardrail: the only ones that may be recommended."""
    return [arm for arm in arms if not _broken(arm.name, readout)]


def _judge(fit: list[_Arm], arms: list[_Arm], write: _Writer) -> tuple[str, tuple[str, ...], str]:
    """The clause about the best arm, then those about the others."""
    paying = sorted((arm for arm in fit if arm.pays), key=_worth, reverse=True)
    better = sorted((arm for arm in fit if arm.better), key=_worth, reverse=True)
    worse = [arm for arm in arms if arm.worse]
    if paying:
        first = paying[0]
        if len(paying) > 1 and (first.result.chance_best or 0) < SURELY:
            named = (first.name, paying[1].name)
            text = write("choose", first, other=paying[1].name)
            return CHOOSE, named, text + _others(arms, named, write)
        return SEND, (first.name,), write("send", first) + _others(arms, (first.name,), write)
    if better:
        first = next((arm for arm in better if not arm.loses), better[0])
        kind, key = (STOP, "cost") if first.loses else (TEST, "test")
        return kind, (first.name,), write(key, first) + _others(arms, (first.name,), write)
    harmful = sorted((arm for arm in arms if arm.better and arm not in fit), key=_worth, reverse=True)
    if harmful:
        first = harmful[0]
        text = write("harm", first, guardrail=write.titles(_broken(first.name, write.readout)))
        return STOP, (first.name,), text + _others(arms, (first.name,), write)
    if worse and len(worse) == len(arms):
        first = min(worse, key=lambda arm: arm.sign * arm.effect.estimate)
        return STOP, (first.name,), write("stop", first) + _others(arms, (first.name,), write)
    open_arms = [arm for arm in arms if not arm.worse]
    first = max(open_arms, key=_worth)
    return OPEN, (first.name,), write("open", first) + _others(arms, (first.name,), write)


def _worth(arm: _Arm) -> tuple[float, float]:
    """Profit first where there is one, then the effect a member."""
    return (sum(arm.profit) if arm.profit is not None else 0.0, arm.sign * arm.effect.estimate)


def _others(arms: list[_Arm], named: tuple[str, ...], write: _Writer) -> str:
    clauses = []
    for arm in arms:
        if arm.name in named:
            continue
        key = "lost" if arm.loses else "worse" if arm.worse else "helped" if arm.pays else "undecided"
        clauses.append(write.words[key].format(arm=arm.name))
    return "".join(clauses)


@dataclass(frozen=True)
class _Writer:
    """Fills the clauses in: numbers as the metric's readers want them."""

    readout: ReadOut
    metric: str
    language: str

    @property
    def words(self) -> Mapping[str, str]:
        return _WORDS[self.language]

    def __call__(self, key: str, arm: _Arm, other: str = "", guardrail: str = "") -> str:
        low, high = (arm.effect.low, arm.effect.high) if key == "open" else arm.gain
        if key == "stop":
            low, high = -high, -low
        much, little = _MORE_LESS[self.language][:: arm.sign]
        money = Shower(MONEY, self.readout.currency, self.language)
        parts = {"profit_low": "", "profit_high": ""}
        if arm.profit is not None:
            parts = {"profit_low": money.total(arm.profit[0]), "profit_high": money.total(arm.profit[1])}
        profit = self.words["profit"].format(**parts) if arm.profit is not None else ""
        return self.words[key].format(
            arm=arm.name,
            other=other,
            guardrail=guardrail,
            low=self._number(low),
            high=self._number(high),
            much=much,
            little=little,
            thing=points(self.readout, self.metric, self.language),
            need=self._need(arm),
            **(parts if key in ("test", "cost") else {"profit": profit}),
        )

    def titles(self, metrics: list[str]) -> str:
        """Names of metrics, within the quotes of a sentence."""
        return ("”、“" if self.language == "zh" else "”, “").join(
            title(name, self.language) for name in metrics
        )

    def _number(self, value: float) -> str:
        shown = Shower(self.readout.unit(self.metric), self.readout.currency, self.language)(value)
        return shown.removesuffix(" %")

    def _need(self, arm: _Arm) -> str:
        need = arm.result.need_estimate
        if need is None or not need.more:
            return ""
        key = "need" if need.days is None else "need_days"
        return self.words[key].format(more=f"{need.more:,}", days=need.days)
