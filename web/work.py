"""Long work started from a page: it runs on a thread of its own and shows its progress as a job.

Guarantees: a piece of work of the same kind and subject runs once at a time in this process. What it
calls is restartable (a campaign's run goes on behind its last whole batch), so a server that dies
half-way loses only the progress bar.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from core.db import Database
from core.errors import Conflict, HuiliuError
from core.models import Job

log = logging.getLogger(__name__)
PROGRESS_EVERY_S = 1.0
Progress = Callable[[int, int], None]
_running: set[str] = set()
_lock = threading.Lock()


def start(
    database: Database,
    kind: str,
    label: str,
    action: Callable[[Progress], Any],
    clock: Callable[[], datetime],
) -> threading.Thread:
    """Run ``action(progress)`` on a thread. Raises Conflict where the same work is under way."""
    key = f"{kind}:{label}"
    with _lock:
        if key in _running:
            raise Conflict(f"“{label}” is under way already; its progress is in the top bar.")
        _running.add(key)
    try:
        with database.write() as session:
            job = Job(
                kind=kind, label=label[:200], state="running", done=0, started_at=clock(), updated_at=clock()
            )
            session.add(job)
            session.flush()
            job_id = job.id
    except BaseException:
        _running.discard(key)
        raise
    thread = threading.Thread(
        target=_work, args=(database, key, job_id, action, clock), name=key, daemon=True
    )
    thread.start()
    return thread


def _work(
    database: Database,
    key: str,
    job_id: int,
    action: Callable[[Progress], Any],
    clock: Callable[[], datetime],
) -> None:
    reached: list[tuple[int, int]] = []
    ended = threading.Event()
    # The work may report from inside its own write transaction, where a second writer would wait for
    # the first for ever; so what it reports is written by another thread.
    reporter = threading.Thread(target=_report, args=(database, job_id, reached, ended, clock), daemon=True)
    reporter.start()
    values: dict[str, Any] = {"state": "failed"}
    try:
        action(lambda done, total: reached.append((done, total)))
        values = {"state": "done"}
    except HuiliuError as refusal:
        values["message"] = str(refusal)
    except Exception as error:
        log.exception("%s failed", key)
        values["message"] = f"{type(error).__name__}: {error}"
    finally:
        ended.set()
        reporter.join()
        if reached:
            values |= dict(zip(("done", "total"), reached[-1], strict=True))
        _note(database, job_id, **values, finished_at=clock(), updated_at=clock())
        _running.discard(key)


def _report(
    database: Database,
    job_id: int,
    reached: list[tuple[int, int]],
    ended: threading.Event,
    clock: Callable[[], datetime],
) -> None:
    """Write how far the work has come, every second until it has ended."""
    while not ended.wait(PROGRESS_EVERY_S):
        if reached:
            done, total = reached[-1]
            del reached[:-1]
            _note(database, job_id, done=done, total=total, updated_at=clock())
        else:
            _note(database, job_id, updated_at=clock())


def _note(database: Database, job_id: int, **values: Any) -> None:
    with database.write() as session:
        session.execute(sa.update(Job).where(Job.id == job_id).values(**values))
