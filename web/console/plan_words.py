"""Plans in words: methods, and where a read-out does not keep to its plan."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flask_babel import gettext

from experiments import outlook
from experiments import planning as plans
from experiments.planning import Deviation
from web import i18n
from web.console.metric_words import title_of
from web.words import word


def method_word(method: str) -> str:
    """What a method is called."""
    texts = {
        outlook.FIXED: gettext("fixed: read once"),
        outlook.SEQUENTIAL: gettext("sequential: read at any time"),
    }
    return str(texts.get(method, method))


def deviation_words(one: Deviation | Mapping[str, Any]) -> str:
    """Where a read-out does not keep to its plan, in a sentence; also of one that was frozen as JSON."""
    if isinstance(one, Mapping):
        one = Deviation(one["code"], one.get("planned"), one.get("found"))
    shown = {"planned": _shown(one.code, one.planned), "found": _shown(one.code, one.found)}
    texts = {
        plans.PLANNED_LATE: gettext("The plan was made after the experiment had begun, so it binds nobody."),
        plans.READ_EARLY: gettext("Read early: on %(found)s, planned for %(planned)s or later.", **shown),
        plans.OTHER_METRIC: gettext("Another goal: %(found)s instead of %(planned)s.", **shown),
        plans.METRIC_CHANGED: gettext(
            "The goal's definition has changed: version %(found)s, planned with version %(planned)s.", **shown
        ),
        plans.SHORTER_WINDOW: gettext("A shorter window: %(found)s days instead of %(planned)s.", **shown),
        plans.LONGER_WINDOW: gettext("A longer window: %(found)s days instead of %(planned)s.", **shown),
        plans.FEWER_MEMBERS: gettext("Fewer members: %(found)s of the %(planned)s planned.", **shown),
        plans.OTHER_ARMS: gettext("Other arms: %(found)s instead of %(planned)s.", **shown),
        plans.OTHER_SPLIT: gettext("Another split: %(found)s instead of %(planned)s.", **shown),
        plans.OTHER_ALPHA: gettext("Another α: %(found)s instead of %(planned)s.", **shown),
        plans.OTHER_METHOD: gettext("Another method: %(found)s instead of %(planned)s.", **shown),
    }
    return str(texts.get(one.code, one.code))


def _shown(code: str, value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "–"
    if code == plans.READ_EARLY:
        return str(i18n.moment(datetime.fromisoformat(value)))
    if code == plans.OTHER_METRIC:
        return title_of(value)
    if code == plans.OTHER_METHOD:
        return method_word(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{word('arm', arm)} {i18n.share(share)}" for arm, share in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(word("arm", arm) for arm in value)
    return i18n.share(value) if code == plans.OTHER_ALPHA else i18n.number(value)
