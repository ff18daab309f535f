"""Every fact table of the warehouse that segments, experiments and results read."""

from __future__ import annotations

from channels import facts as channels
from core import facts as core
from core.settings import Settings
from core.warehouse.engine import DuckEngine
from core.warehouse.replica import Replica
from loyalty import facts as loyalty

FACTS = (*core.FACTS, *channels.FACTS, *loyalty.FACTS)


def open_engine(settings: Settings) -> DuckEngine:
    """The engine over this installation's warehouse."""
    return DuckEngine(Replica(settings.warehouse_url, FACTS))
