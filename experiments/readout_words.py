"""The verdict of a read-out in one sentence, checks before numbers, in English and Chinese. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core import money
from experiments.moments import MARGIN, REVENUE
from experiments.readout_form import DAYS, MONEY, SEQUENTIAL, SHARE, ReadOut

MONEY_METRICS = (REVENUE, MARGIN)

METRIC_WORDS = {
    "en": {
        "revenue": "revenue a member",
        "orders": "orders a member",
        "converted": "the share who bought",
        "margin": "margin a member",
        "order_value": "average order value",
        "units": "units a member",
        "return_rate": "the return rate",
        "unsubscribes": "the share who unsubscribed",
        "repurchase": "the share who bought again",
    },
    "zh": {
        "revenue": "人均收入",
        "orders": "人均订单数",
        "converted": "购买率",
        "margin": "人均毛利",
        "order_value": "客单价",
        "units": "人均件数",
        "return_rate": "退款率",
        "unsubscribes": "退订率",
        "repurchase": "复购率",
    },
}
METRIC_TITLES = {
    "en": {
        "revenue": "Revenue",
        "margin": "Margin",
        "orders": "Orders",
        "converted": "Conversion",
        "order_value": "Average order value",
        "units": "Units",
        "return_rate": "Return rate",
        "unsubscribes": "Unsubscribes",
        "repurchase": "Bought again",
    },
    "zh": {
        "revenue": "收入",
        "margin": "毛利",
        "orders": "订单",
        "converted": "转化率",
        "order_value": "客单价",
        "units": "件数",
        "return_rate": "退款率",
        "unsubscribes": "退订",
        "repurchase": "复购",
    },
}
"""Names of the ready-made metrics that stand by themselves, as in a table."""
_POINTS = {
    "converted": "conversion",
    "return_rate": "return rate",
    "unsubscribes": "unsubscribing",
    "repurchase": "buying again",
}
"""Shares, as what percentage points are of."""
Said = Callable[[str], str]
"""A refusal in the reader's language."""


def language_of(locale: str) -> str:
    """``zh`` for any ``zh…`` locale, else ``en``."""
    return "zh" if locale.lower().startswith("zh") else "en"


def title(metric: str, language: str) -> str:
    """A metric's name by itself: the ready-made ones are translated, the shop's own as the shop calls it."""
    return METRIC_TITLES[language].get(metric, metric)


def thing(readout: ReadOut, metric: str, language: str) -> str:
    """What a metric is called within a sentence; a shop's own is called as the shop calls it."""
    measure = readout.measures.get(metric)
    name = metric if measure is None else measure.name
    return METRIC_WORDS[language].get(name, f"“{name}”") + _version(readout, metric, language)


def points(readout: ReadOut, metric: str, language: str) -> str:
    """What a difference is one of: percentage points where the metric is a share, else the metric."""
    if readout.unit(metric) != SHARE:
        return thing(readout, metric, language)
    if language == "zh":
        return f"{thing(readout, metric, language)}（百分点）"
    measure = readout.measures.get(metric)
    name = metric if measure is None else measure.name
    return f"percentage points of {_POINTS.get(name, f'“{name}”')}{_version(readout, metric, language)}"


def _version(readout: ReadOut, metric: str, language: str) -> str:
    """Of a metric that is there beside the read-out's own of the same name."""
    measure = readout.measures.get(metric)
    if measure is None or measure.name == metric:
        return ""
    return f" (version {measure.version})" if language == "en" else f"（第 {measure.version} 版）"


_SENTENCES = {
    "en": {
        "nothing": "No result yet: {why}",
        "srm": (
            "Do not trust this result: the arms are not split as planned (p {p}); "
            "find out why before reading on."
        ),
        "none": (
            "No difference found in {metric}: {estimate} ({level} interval {low} to {high}, p {p}) with "
            "{n} members in “{arm}” and {n_control} in “{control}”; "
            "an effect inside this interval is still possible."
        ),
        "found": (
            "“{arm}” {changed} {metric} by {estimate} ({level} interval {low} to {high}, p {p}), "
            "{total} over its {n} members against {n_control} in “{control}”."
        ),
        "of_all": (
            "“{arm}” {changed} {metric} by {estimate} ({level} interval {low} to {high}, p {p}), "
            "with {n} members against {n_control} in “{control}”."
        ),
        "raised": "raised",
        "lowered": "lowered",
        "small": " The sample is small: only {smallest} members in the smallest arm.",
        "open": " Preliminary: the window of {open} members is still open.",
        "looked": " Looked at before ({looks} times), so intervals and p hold at every look.",
        "planned": (
            " Looked at before ({looks} times); interval and p are those of the one look that was planned."
        ),
    },
    "zh": {
        "nothing": "暂无结果：{why}",
        "srm": "请勿采信此结果：各组人数与计划的比例不符（p {p}），请先查明原因。",
        "none": (
            "未发现{metric}有差异：{estimate}（{level} 置信区间 {low} 至 {high}，p {p}），"
            "“{arm}”{n} 人，“{control}”{n_control} 人；区间之内的效果仍有可能。"
        ),
        "found": (
            "“{arm}”使{metric}{changed} {estimate}（{level} 置信区间 {low} 至 {high}，p {p}），"
            "{n} 人合计 {total}，对照组“{control}”{n_control} 人。"
        ),
        "of_all": (
            "“{arm}”使{metric}{changed} {estimate}（{level} 置信区间 {low} 至 {high}，p {p}），"
            "共 {n} 人，对照组“{control}”{n_control} 人。"
        ),
        "raised": "提高",
        "lowered": "降低",
        "small": "样本较小：人数最少的组仅 {smallest} 人。",
        "open": "初步结果：仍有 {open} 人的观察期未结束。",
        "looked": "此前已查看过 {looks} 次，因此采用随时有效的区间与 p 值。",
        "planned": "此前已查看过 {looks} 次；区间与 p 值为计划中那一次查看的结果。",
    },
}


def verdict(
    readout: ReadOut,
    locale: str,
    metric: str | None = None,
    arm: str | None = None,
    said: Said = str,
) -> str:
    """The result in one sentence of English or Chinese (any ``zh…`` locale), checks before numbers.

    ``metric``: None for the read-out's goal; ``said`` translates a refusal. Where the interval of the
    absolute difference holds 0 it says that none was **found**, with the interval and the numbers, not that
    there is none.
    """
    language = language_of(locale)
    words = _SENTENCES[language]
    if readout.srm is not None and not readout.trusted:
        return words["srm"].format(p=shown_p(split_p(readout)))
    if not readout.results:
        return words["nothing"].format(why="nobody was assigned." if language == "en" else "尚无成员分组。")
    metric = metric or readout.goal or REVENUE
    found = readout.result(metric, arm)
    effect, whole = readout.headline(found), readout.total(found)
    if effect is None:
        return words["nothing"].format(why=said(found.refused or ""))
    show = Shower(readout.unit(metric), readout.currency, language)
    different = effect.low > 0 or effect.high < 0
    down = effect.estimate < 0
    size = abs(effect.estimate) if different else effect.estimate
    ends = sorted((abs(effect.low), abs(effect.high))) if different else [effect.low, effect.high]
    key = "none" if not different else "found" if whole is not None else "of_all"
    text = words[key].format(
        arm=found.arm,
        control=found.control,
        metric=thing(readout, metric, language),
        changed=words["lowered" if down else "raised"],
        estimate=show(size),
        low=show(ends[0]),
        high=show(ends[1]),
        level=f"{100 * (1 - readout.alpha):g} %" if language == "en" else f"{100 * (1 - readout.alpha):g}%",
        p=shown_p(effect.p),
        total="" if whole is None else show.total(whole.estimate),
        n=f"{found.n:,}",
        n_control=f"{found.n_control:,}",
    )
    return text + _caveats(readout, words)


def split_p(readout: ReadOut) -> float:
    """The p of the split: the smaller one of the look's own and of the one that holds at every look."""
    check = readout.check("srm")
    found = [value for name, value in (check.detail if check else {}).items() if name.endswith("p")]
    return min((float(value) for value in found), default=1.0)


def _caveats(readout: ReadOut, words: Mapping[str, str]) -> str:
    keys = {"sample_size": "small", "windows_closed": "open"}
    text = "".join(
        words[keys[check.name]].format(**check.detail)
        for check in readout.checks
        if not check.ok and check.name in keys
    )
    if readout.looks:
        text += words["looked" if readout.method == SEQUENTIAL else "planned"].format(looks=readout.looks)
    return text


def shown_p(value: float) -> str:
    """A p after its sign: ``= 0.031``, ``< 0.001``."""
    return f"= {value:.3f}" if value >= 0.001 else "< 0.001"


@dataclass(frozen=True)
class Shower:
    """Numbers of a unit for readers: money in the shop's form, shares in per cent, days by name."""

    unit: str
    currency: str | None
    language: str = "en"

    def __call__(self, value: float) -> str:
        """A value of one member."""
        if self.unit == SHARE:
            return f"{100 * value:.2f} %"
        if self.unit == MONEY:
            return self._money(value, whole=False)
        if self.unit == DAYS:
            return f"{value:,.2f}{'天' if self.language == 'zh' else ' days'}"
        return f"{value:,.4f}"

    def signed(self, value: float) -> str:
        """The same with a plus before a gain."""
        return f"{'+' if value > 0 else ''}{self(value)}"

    def total(self, value: float) -> str:
        """A sum over members."""
        return self._money(value, whole=True) if self.unit == MONEY else f"{value:,.1f}"

    def _money(self, value: float, *, whole: bool) -> str:
        if not self.currency:
            return f"{value:,.{0 if whole else 2}f}"
        return money.shown(value, self.currency, "zh_CN" if self.language == "zh" else "en", whole=whole)
