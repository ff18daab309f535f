"""``huiliu clv``: BG/NBD and Gamma-Gamma on any transaction log; needs no database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core import settings as core_settings
from core.errors import HuiliuError, InvalidInput
from core.files import RejectsFile
from segments.predict.settings import UNIT_DAYS, Predicting
from web.commands.common import REFUSED, REJECTED_ROWS, answer, json_option

if TYPE_CHECKING:
    from segments.predict.log import LogFile
    from segments.predict.study import Study
    from segments.predict.summary import Observed

SHOWN_REJECTS = 20
DEFAULT_HORIZON = {"day": 365, "week": 52}


@click.group("clv")
def group() -> None:
    """How often customers will buy, and what they are worth."""


@group.command("fit")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--id", "id_column", required=True, metavar="COL", help="The column of the customer.")
@click.option("--date", "date_column", required=True, metavar="COL", help="The column of the date.")
@click.option(
    "--amount", "amount_column", metavar="COL", help="The column of the amount; without it no spend."
)
@click.option("--until", metavar="DATE", help="The last day that counts [the last of the file].")
@click.option("--unit", type=click.Choice(list(UNIT_DAYS)), default="week", show_default=True)
@click.option("--horizon", type=int, metavar="N", help="Units to look ahead [52 weeks, 365 days].")
@click.option("--margin", type=float, default=1.0, show_default=True, help="The share of the spend kept.")
@click.option("--discount", type=float, default=0.1, show_default=True, help="A year, 0.1 is 10 %.")
@click.option(
    "--predict", type=click.Path(path_type=Path), metavar="OUT", help="Parquet file: a row a customer."
)
@click.option("--rejects", type=click.Path(path_type=Path), help="Where refused rows go [FILE.rejects.csv].")
@json_option
@click.pass_context
def fit(
    ctx: click.Context,
    file: Path,
    id_column: str,
    date_column: str,
    amount_column: str | None,
    until: str | None,
    unit: str,
    horizon: int | None,
    margin: float,
    discount: float,
    predict: Path | None,
    rejects: Path | None,
    as_json: bool,
) -> None:
    """Fit BG/NBD and Gamma-Gamma to FILE, a CSV or Parquet of transactions, and check them.

    Rows after --until are held out and compared with what the model expects. A model that fails a
    check is reported, predicts nothing, and ends with exit code 1.
    """
    from segments.predict.log import LogFile

    ahead = DEFAULT_HORIZON[unit] if horizon is None else horizon
    days = ahead * UNIT_DAYS[unit]
    predicting = Predicting(unit, days, days, margin, discount).validated()
    log = LogFile(file, id_column, date_column, amount_column)
    target = rejects or file.with_name(f"{file.name}.rejects.csv")
    rows, observed, found = _study(log, _day(until), predicting, target)
    if found.bgnbd is None:
        raise InvalidInput(" ".join(found.reasons))
    result = {**found.to_json(), **rows, "predictions_file": None}
    if predict is not None and found.predictions is not None:
        _write(predict, log, observed, found, ahead)
        result["predictions_file"] = str(predict)
    answer(result, as_json, lambda: _lines(found, rows, unit, result["predictions_file"]))
    if not found.usable:
        click.echo("huiliu: the models fail a check, so nothing is predicted from them.", err=True)
        ctx.exit(REFUSED)
    if rows["rejected"]:
        ctx.exit(REJECTED_ROWS)


def _day(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise InvalidInput(f"--until: “{text}” is not a date; write it like 2026-03-01.") from None


def _study(
    log: LogFile, until: date | None, predicting: Predicting, target: Path
) -> tuple[dict[str, Any], Observed, Study]:
    """Read, report refused rows, and fit. Raises InvalidInput where no row is left."""
    from segments.predict.log import load
    from segments.predict.log import rejects as refused
    from segments.predict.study import study
    from segments.predict.summary import from_rows

    with duckdb.connect(":memory:") as connection:
        loaded = load(connection, log, core_settings.load().zone)
        first: list[dict[str, Any]] = []
        with RejectsFile(target, log.columns) as file:  # made when the first one comes
            for reject in refused(connection, log):
                file.add(reject)
                if len(first) < SHOWN_REJECTS:
                    first.append({"line": reject.line, "reason": reject.reason})
        rows = {
            "rows": loaded.rows,
            "rejected": loaded.rejected,
            "rejects": first,
            "rejects_file": str(target) if loaded.rejected else None,
        }
        observed = from_rows(connection, until)
    if observed is None:
        why = "".join(f" Line {item['line']}: {item['reason']}" for item in islice(first, 1))
        raise InvalidInput(f"{log.path.name} has no row that counts up to {until or 'its end'}.{why}")
    return rows, observed, study(observed, predicting, with_spend=log.amount is not None)


def _write(path: Path, log: LogFile, observed: Observed, found: Study, ahead: int) -> None:
    """A row a customer, times in units, by temporary file and rename."""
    assert found.predictions is not None
    customers, predictions, unit = observed.customers, found.predictions, found.settings.unit_days
    columns = {
        log.id: customers.ids,
        "frequency": customers.frequency,
        "recency": customers.recency / unit,
        "T": customers.age / unit,
        "p_alive": predictions.p_alive,
        f"expected_purchases_{ahead}": predictions.purchases,
    }
    if predictions.spend is not None and predictions.clv is not None:
        columns |= {"expected_spend": predictions.spend, "clv": predictions.clv}
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        pq.write_table(pa.table(columns), temporary)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HuiliuError(f"{path} cannot be written: {error.strerror or error}.") from None


def _lines(found: Study, rows: dict[str, Any], unit: str, written: str | None) -> Iterator[str]:
    """The answer as a person reads it."""
    yield f"{found.customers:,} customers until {found.until}, {found.repeaters:,} of them bought again"
    for title, model in ((f"BG/NBD, in {unit}s", found.bgnbd), ("Gamma-Gamma", found.gamma_gamma)):
        if model is None:
            continue
        yield ""
        yield f"{title}: {model.customers:,} customers, log-likelihood {model.log_likelihood:,.1f}"
        yield f"  {'parameter':<10} {'value':>12} {'std. error':>12}"
        for name, one in model.parameters.items():
            error = "–" if one.error is None else f"{one.error:.4f}"
            yield f"  {name:<10} {one.value:>12.4f} {error:>12}"
    yield ""
    yield "Checks"
    for check in found.checks:
        yield f"  {'ok ' if check.ok else 'NO '} {check.model:<12} {check.name:<12} {check.message}"
    if rows["rejected"]:
        yield ""
        yield f"{rows['rejected']:,} of {rows['rows']:,} rows were refused; {rows['rejects_file']} has them"
        for reject in rows["rejects"]:
            yield f"  line {reject['line']}: {reject['reason']}"
    if written:
        yield ""
        yield f"Predictions: {written}"
