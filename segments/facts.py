"""Every fact table of the warehouse that segments, experiments and results read."""

from __future__ import annotations

from channels.facts import FACTS as CHANNEL_FACTS
from core.facts import FACTS as CORE_FACTS
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica
from loyalty.facts import FACTS as LOYALTY_FACTS
from segments.lists import FACT as LISTS

FACTS = (*CORE_FACTS, *CHANNEL_FACTS, *LOYALTY_FACTS, LISTS)


def open_engine(settings: Settings) -> DuckEngine:
    """The engine over this installation's warehouse."""
    return DuckEngine(Replica(settings.warehouse_url, FACTS))
