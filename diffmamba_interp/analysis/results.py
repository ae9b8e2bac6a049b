"""What every analysis keeps: its recipe, what its results were made with, per-sample records, estimates with intervals.

recipe.toml     one table per recipe                    `read_recipe`
results.json    provenance first, then the findings     `write_results`, `read_results`
records.parquet one line per sample                     `write_records`, `read_records`
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffmamba_interp.files.atomic import write_bytes, write_text
from diffmamba_interp.files.checksums import file_sha256
from diffmamba_interp.files.json_files import read_json_object, read_toml, results_json
from diffmamba_interp.models.demo import DEMO_FOLDER, DEMO_NAMES, demo_folder
from diffmamba_interp.runs.provenance import device_name, package_versions, weights_sha256
from diffmamba_interp.runs.settings import from_values
from diffmamba_interp.statistics import Estimate
from diffmamba_interp.text import TextSource

Recipe = TypeVar("Recipe")
Records = dict[str, np.ndarray]
"""Columns of one length, by name."""

N_RESAMPLES = 2_000
"""Draws of a bootstrap interval in the analyses."""
RESULT_DIGITS = 4
"""Significant ones of a number in results.json: the records have more, and intervals leave room for fewer."""

# Of a number in a table of records: what eight bytes hold.
_DIGITS = 18


def read_recipe(path: Path, name: str, kind: type[Recipe]) -> Recipe:
    """The table `name` of a TOML file as a dataclass `kind`; arrays become tuples.

    Raises ValueError for a recipe that the file does not have, for unknown or missing keys, and for values of the wrong
    type.
    """
    recipes = read_toml(path)
    if name not in recipes:
        raise ValueError(f"there is no recipe {name!r} in {path.name}: choose one of {', '.join(recipes)}.")
    try:
        return from_values(kind, recipes[name])
    except ValueError as error:
        raise ValueError(f"recipe {name!r} in {path.name}: {error}") from error


def provenance(
    name: str, recipe: Any, *, device: str, data: Mapping[str, Path] | None = None, models: Sequence[str] = DEMO_NAMES
) -> dict[str, Any]:
    """What results were made with: sha256 of models, tokenizer and data; recipe, seed, device and versions.

    recipe: a dataclass with a field `seed`. data: what was read, by name; files, or folders of text.
    """
    made: dict[str, Any] = {
        "models": {model: weights_sha256(demo_folder(model)) for model in models},  # type: ignore[arg-type]
        "tokenizer": file_sha256(DEMO_FOLDER / "tokenizer" / "tokenizer.json"),
        "recipe": {"name": name, **asdict(recipe)},
        "seed": recipe.seed,
        "device": device_name(device),
        "versions": package_versions(),
    }
    if data:
        made["data"] = data_sha256(data)
    return made


def data_sha256(data: Mapping[str, Path]) -> dict[str, str]:
    """Sums of files and of folders of text, by name."""
    return {
        name: TextSource(location=str(path)).sha256() if path.is_dir() else file_sha256(path)
        for name, path in data.items()
    }


def write_results(
    path: Path, made: Mapping[str, Any], found: Mapping[str, Any], *, digits: int = RESULT_DIGITS
) -> None:
    """Write results.json: provenance, then what was found; an estimate as [value, low, high], NaN as null.

    digits: of every number with a fraction.
    """
    write_text(path, results_json(_listed({"provenance": made, **found}), digits=digits) + "\n")


def read_results(path: Path) -> dict[str, Any]:
    """What `write_results` wrote."""
    return read_json_object(path)


def estimate_from(values: Sequence[float | None]) -> Estimate:
    """The estimate that results.json holds as [value, low, high]; null is NaN."""
    return Estimate(*(float("nan") if value is None else float(value) for value in values))


def write_records(path: Path, columns: Mapping[str, Sequence[Any] | np.ndarray], *, decimals: int = 4) -> None:
    """Write columns of equal length as Parquet (brotli); the same columns give the same bytes.

    Numbers with a fraction are rounded to `decimals` and kept as decimals, with fewer places where fewer will do; NaN
    is null. Their bytes are kept apart by place (byte stream split), for those of high places hardly differ and pack
    well. A column with infinite values is kept in single precision.

    Raises ValueError for columns of different lengths.
    """
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the columns have different lengths: {lengths}. Give one value for each line.")
    table = pa.table({name: _column(np.asarray(column), decimals) for name, column in columns.items()})
    fractions = [field.name for field in table.schema if pa.types.is_decimal(field.type)]
    file = io.BytesIO()
    pq.write_table(
        table,
        file,
        compression="brotli",
        compression_level=11,
        use_dictionary=[name for name in columns if name not in fractions],
        column_encoding=dict.fromkeys(fractions, "BYTE_STREAM_SPLIT"),
        data_page_size=2**28,  # one page a column: larger pages cost nothing, since tables are read whole
        dictionary_pagesize_limit=2**26,
        write_statistics=False,
        store_schema=False,
    )
    write_bytes(path, file.getvalue())


def read_records(path: Path) -> Records:
    """The columns that `write_records` wrote: text as strings, numbers as float64, null as NaN."""
    table = pq.read_table(path)
    return {name: _values(table[name]) for name in table.column_names}


def _column(values: np.ndarray, decimals: int) -> Any:
    if values.dtype.kind != "f":
        return values.astype(np.int32) if values.dtype.kind == "i" else values
    if np.isinf(values).any():
        return values.astype(np.float32)
    values = values.astype(np.float64).round(decimals)
    places = next(n for n in range(decimals + 1) if np.array_equal(values.round(n), values, equal_nan=True))
    return pa.array(values, from_pandas=True).cast(pa.decimal128(_DIGITS, places))


def _values(column: Any) -> np.ndarray:
    """Strings, or float64: of a decimal the one that is nearest to it."""
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), dtype=str)
    values = column.cast(pa.float64()).to_numpy()
    return values.round(column.type.scale) if pa.types.is_decimal(column.type) else values


def _listed(value: Any) -> Any:
    """With estimates as [value, low, high]."""
    if isinstance(value, Estimate):
        return [value.value, value.low, value.high]
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    return value
