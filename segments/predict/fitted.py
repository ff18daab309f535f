"""The form of a fitted model: values with standard errors, log-likelihood, checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from segments.predict.checks import Check, search
from segments.predict.maximum import Maximum

Model = TypeVar("Model")


@dataclass(frozen=True)
class Parameter:
    value: float
    error: float | None
    """Standard error; None where the data do not tell it."""


@dataclass(frozen=True)
class Fitted(Generic[Model]):
    """A model at its maximum likelihood. Use it only where ``usable``."""

    model: Model
    parameters: dict[str, Parameter]
    log_likelihood: float
    customers: int
    checks: tuple[Check, ...]

    @property
    def usable(self) -> bool:
        return all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {
            "parameters": {name: asdict(parameter) for name, parameter in self.parameters.items()},
            "log_likelihood": self.log_likelihood,
            "customers": self.customers,
            "usable": self.usable,
        }


def fitted(
    kind: str,
    model: Model,
    names: Sequence[str],
    found: Maximum,
    customers: int,
    more: Sequence[Check] = (),
) -> Fitted[Model]:
    """What a search found, as a fitted model with the checks of the search and ``more``."""
    errors = found.errors(customers)
    parameters = {
        name: Parameter(float(value), None if errors is None else float(errors[place]))
        for place, (name, value) in enumerate(zip(names, found.parameters, strict=True))
    }
    told = None if errors is None else [float(error) for error in errors]
    checks = (*search(kind, names, found, told), *more)
    return Fitted(model, parameters, found.value * customers, customers, checks)
