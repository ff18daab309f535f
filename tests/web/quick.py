"""What every application of the tests would work out anew, done once in a process.

Nothing here changes an answer: templates are compiled once, the builders of addresses too, and a password
costs what one of a test is worth. `test_passwords.py` holds the cost of real ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from passlib.hash import argon2
from werkzeug.routing import Rule

from web import users

GENUINE_HASHER = users.PasswordHasher
GENUINE_COSTS = {name: getattr(argon2, name) for name in ("default_rounds", "memory_cost", "parallelism")}
CHEAP = {"default_rounds": 1, "memory_cost": 8, "parallelism": 1}
"""The least that Argon2 takes; the real cost is 64 MiB and 0.2 s of a core for each log-in."""


class Compiled(BytecodeCache):
    """Compiled templates, by the name of the file and what stands in it."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        known = self.found.get((bucket.key, bucket.checksum))
        if known is not None:
            bucket.bytecode_from_string(known)

    def dump_bytecode(self, bucket: Bucket) -> None:
        self.found[bucket.key, bucket.checksum] = bucket.bytecode_to_string()


@dataclasses.dataclass
class Builders:
    """The functions that build a rule's address: the same for rules that read the same."""

    compile: Callable[[Rule, bool], Any]
    found: dict[str, Any] = dataclasses.field(default_factory=dict)

    def of(self, rule: Rule, append_unknown: bool = True) -> Any:
        if rule.defaults:  # these stand in the function, converted
            return self.compile(rule, append_unknown)
        key = repr((rule.rule, rule._trace, append_unknown))
        if key not in self.found:
            self.found[key] = self.compile(rule, append_unknown)
        return self.found[key]


def apply(patch: pytest.MonkeyPatch) -> None:
    """Until ``patch`` ends."""
    patch.setattr(Flask, "jinja_options", {**Flask.jinja_options, "bytecode_cache": Compiled()})
    builders = Builders(Rule._compile_builder)
    patch.setattr(Rule, "_compile_builder", lambda *given: builders.of(*given))
    patch.setattr(users, "PasswordHasher", partial(PasswordHasher, *CHEAP.values()))
    for name, value in CHEAP.items():
        patch.setattr(argon2, name, value)
