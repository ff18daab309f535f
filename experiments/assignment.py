"""Who gets which arm: a deterministic hash of (salt, unit id), one at a time or a million at once.

Guarantees: the hashes, bucket ranges and namespaces are GrowthBook's, so that its SDKs give a unit the
same arm; nothing needs to be stored to decide. One deviation: weights that do not sum to 1 are an
error here, where the SDKs quietly fall back to equal ones. What is stored is sticky: the first stored
arm of a member stays.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from sqlalchemy.orm import Session

from core.bulk import bulk_insert
from core.errors import Conflict, InvalidInput
from experiments.models import Assignment, Experiment
from experiments.moments import ASSIGNMENTS_SCHEMA

Arm = tuple[str, float]
Ids: TypeAlias = pa.Array | pa.ChunkedArray | npt.NDArray[np.generic] | Sequence[object]
"""Unit ids: texts or whole numbers, as Arrow, numpy or a sequence."""
Range = tuple[float, float]
Floats = npt.NDArray[np.float64]
Hashes = npt.NDArray[np.uint32]

_OFFSET_BASIS = 0x811C9DC5
_PRIME = 0x01000193
_MASK = 0xFFFFFFFF
_BUCKETS = {1: 1_000, 2: 10_000}
CHUNK = 1 << 17
"""Units hashed at a time: their columns stay in the processor's cache."""
WEIGHT_TOLERANCE = 1e-6
MAX_ARMS = 20


def fnv1a32(text: str, start: int = _OFFSET_BASIS) -> int:
    """FNV-1a over the UTF-8 bytes, 32 bits; ``start`` continues an earlier hash."""
    value = start
    for byte in text.encode():
        value = ((value ^ byte) * _PRIME) & _MASK
    return value


def hash_unit(seed: str, unit: str, version: int = 2) -> float | None:
    """The unit's place in [0, 1): v2 in steps of 1/10,000, v1 of 1/1,000; None for other versions."""
    if version == 2:
        return fnv1a32(str(fnv1a32(seed + unit))) % 10_000 / 10_000
    if version == 1:
        return fnv1a32(unit + seed) % 1_000 / 1_000
    return None


def in_namespace(unit: str, namespace: str, low: float, high: float) -> bool:
    """Whether the unit is in the layer's part [low, high): parts that do not overlap exclude each other."""
    return low <= fnv1a32(f"{unit}__{namespace}") % 1_000 / 1_000 < high


def bucket_ranges(weights: Sequence[float], coverage: float = 1.0) -> list[Range]:
    """Each arm's part of [0, 1). ``coverage`` (clipped to 0 … 1) shrinks an arm from its own start.

    So raising the coverage adds units to arms and moves nobody. InvalidInput: weights that are
    negative or do not sum to 1.
    """
    if not weights or any(not 0 <= weight <= 1 for weight in weights):
        raise InvalidInput("Every arm has a weight between 0 and 1.", "arms")
    total = sum(weights)
    if abs(total - 1) > WEIGHT_TOLERANCE:
        raise InvalidInput(f"The arms' weights sum to {total:g}; make them sum to 1.", "arms")
    coverage = min(max(coverage, 0.0), 1.0)
    ranges, start = [], 0.0
    for weight in weights:
        ranges.append((start, start + coverage * weight))
        start += weight
    return ranges


def choose(place: float, ranges: Sequence[Range]) -> int:
    """Index of the first range that holds ``place``, or −1."""
    for index, (low, high) in enumerate(ranges):
        if low <= place < high:
            return index
    return -1


@dataclass(frozen=True)
class _Texts:
    """UTF-8 texts side by side: text i is ``data[start[i] : start[i] + length[i]]``."""

    data: npt.NDArray[np.uint8]
    start: npt.NDArray[np.int64]
    length: npt.NDArray[np.int64]


def _texts(ids: pa.Array) -> _Texts:
    """The buffers of a string array, without a copy. Nulls are refused: nobody has no id."""
    if ids.null_count:
        raise InvalidInput(f"{ids.null_count} unit ids are empty; every unit needs its id.", "ids")
    _, offsets, data = ids.buffers()
    place = np.frombuffer(offsets, dtype=np.int64)[ids.offset : ids.offset + len(ids) + 1]
    found = np.frombuffer(data, dtype=np.uint8) if data is not None else np.empty(0, np.uint8)
    return _Texts(found, place[:-1], np.diff(place))


def _string_chunks(ids: Ids) -> list[pa.Array]:
    """Arrays of at most CHUNK texts; numbers become their decimal text."""
    if isinstance(ids, np.ndarray):
        ids = pa.array(ids.tolist() if ids.dtype.kind in "OUS" else ids)
    elif not isinstance(ids, pa.Array | pa.ChunkedArray):
        ids = pa.array(ids)
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    return [
        pc.cast(chunk.slice(start, CHUNK), pa.large_string())
        for chunk in chunks
        for start in range(0, len(chunk), CHUNK)
    ]


def _absorb(state: Hashes, texts: _Texts) -> Hashes:
    """Continue each FNV-1a state over its text, one column of bytes at a time."""
    prime = np.uint32(_PRIME)
    everyone = int(texts.length.min()) if len(state) else 0
    for column in range(everyone):
        state = (state ^ texts.data[texts.start + column]) * prime
    rest = np.flatnonzero(texts.length > everyone)
    column = everyone
    while len(rest):  # fewer and fewer texts are this long
        state[rest] = (state[rest] ^ texts.data[texts.start[rest] + column]) * prime
        column += 1
        rest = rest[texts.length[rest] > column]
    return state


def _absorb_text(state: Hashes, text: str) -> Hashes:
    for byte in text.encode():
        state = (state ^ np.uint32(byte)) * np.uint32(_PRIME)
    return state


def _hash_digits(values: Hashes) -> Hashes:
    """FNV-1a of each number's decimal text."""
    state = np.full(len(values), _OFFSET_BASIS, dtype=np.uint32)
    for power in range(9, -1, -1):
        unit = np.uint32(10**power)
        digit = (values // unit) % np.uint32(10)
        written = values >= unit if power else np.ones(len(values), dtype=bool)
        state = np.where(written, (state ^ (digit + np.uint32(48))) * np.uint32(_PRIME), state)
    return state


def _states(chunk: pa.Array, prefix: str = "") -> Hashes:
    start = np.full(len(chunk), fnv1a32(prefix), dtype=np.uint32)
    return _absorb(start, _texts(chunk))


def hash_units(
    seed: str,
    ids: Ids,
    version: int = 2,
) -> Floats:
    """:func:`hash_unit` of every id. ``ids``: texts or whole numbers, as Arrow, numpy or a sequence."""
    if version not in _BUCKETS:
        raise InvalidInput(f"There is no hash version {version}; take 1 or 2.", "version")
    parts = [np.empty(0)]
    for chunk in _string_chunks(ids):
        if version == 2:
            hashes = _hash_digits(_states(chunk, seed))
        else:
            hashes = _absorb_text(_states(chunk), seed)
        parts.append((hashes % np.uint32(_BUCKETS[version])) / _BUCKETS[version])
    return np.concatenate(parts)


def in_namespace_many(
    ids: Ids,
    namespace: str,
    low: float,
    high: float,
) -> npt.NDArray[np.bool_]:
    """:func:`in_namespace` of every id."""
    places = hash_units(f"__{namespace}", ids, version=1)
    inside: npt.NDArray[np.bool_] = (places >= low) & (places < high)
    return inside


def assign(
    salt: str,
    ids: Ids,
    arms: Sequence[Arm],
    coverage: float = 1.0,
) -> pa.Array:
    """The arm of every id as a string array; null for those the coverage leaves out.

    The same id gets the same arm whatever the other ids, their order, or a higher coverage.
    """
    check_arms(arms)
    ranges = bucket_ranges([weight for _, weight in arms], coverage)
    places = hash_units(salt, ids)
    chosen = np.full(len(places), -1, dtype=np.int8)
    for index, (low, high) in reversed(list(enumerate(ranges))):  # the first range that holds wins
        chosen[(places >= low) & (places < high)] = index
    indices = pa.array(chosen, mask=chosen < 0)
    names = pa.array([name for name, _ in arms], pa.string())
    return pa.DictionaryArray.from_arrays(indices, names).cast(pa.string())


def check_arms(arms: Sequence[Arm]) -> None:
    """InvalidInput unless the arms are 1 to 20 different names whose weights sum to 1."""
    names = [name for name, _ in arms]
    if not 1 <= len(names) <= MAX_ARMS:
        raise InvalidInput(f"An experiment has 1 to {MAX_ARMS} arms; {len(names)} were given.", "arms")
    if len(set(names)) < len(names) or any(not 0 < len(name) <= 40 for name in names):
        raise InvalidInput("Every arm has a name of its own, of 1 to 40 characters.", "arms")
    bucket_ranges([weight for _, weight in arms])


def create(
    session: Session,
    *,
    name: str,
    arms: Sequence[Arm],
    control: str,
    now: datetime,
    salt: str | None = None,
) -> Experiment:
    """Store an experiment; a salt of its own is drawn where none is given. The control arm comes first."""
    check_arms(arms)
    if len(arms) < 2:
        raise InvalidInput("An experiment compares two arms or more.", "arms")
    if control not in {arm for arm, _ in arms}:
        raise InvalidInput(f"“{control}” is none of the arms; name the control arm.", "control")
    if not 0 < len(name) <= 80:
        raise InvalidInput("The name has 1 to 80 characters.", "name")
    ordered = sorted(arms, key=lambda arm: arm[0] != control)
    new = bulk_insert(
        session,
        Experiment.__table__,
        ("name", "salt", "arms", "control", "created_at"),
        [
            (
                name,
                salt or secrets.token_hex(16),
                [{"name": arm, "weight": weight} for arm, weight in ordered],
                control,
                now,
            )
        ],
        conflict=["name"],
        returning=["id"],
    )
    if not new:
        raise Conflict(f"There is an experiment “{name}” already; take another name.")
    return session.get_one(Experiment, new[0][0])


def store_assignments(session: Session, experiment_id: int, rows: Iterable[tuple[int, str, datetime]]) -> int:
    """Store (member id, arm, moment it counts from); a member who has an arm keeps it. How many were new."""
    new = bulk_insert(
        session,
        Assignment.__table__,
        ("experiment_id", "member_id", "arm", "at"),
        ((experiment_id, member_id, arm, at) for member_id, arm, at in rows),
        conflict=["experiment_id", "member_id"],
        returning=["member_id"],
    )
    return len(new)


def assigned(session: Session, experiment_id: int) -> pa.Table:
    """(member_id, arm, at) of everybody in an experiment, as the scans of the warehouse take it."""
    query = sa.select(Assignment.member_id, Assignment.arm, Assignment.at)
    rows = session.execute(query.where(Assignment.experiment_id == experiment_id)).all()
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, ASSIGNMENTS_SCHEMA, strict=True)]
    return pa.table(arrays, schema=ASSIGNMENTS_SCHEMA)
