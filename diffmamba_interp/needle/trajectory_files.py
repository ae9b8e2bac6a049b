"""Needle trajectories as tables, one row per lens, prompt and stage: records, Parquet, CSV and JSON, and back."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffmamba_interp.argument_checks import Between, checked
from diffmamba_interp.files.atomic import write_bytes
from diffmamba_interp.needle.trajectory_records import ARRAYS, BY_LABEL, Measure, NeedleTrajectory, ReadSample

_DERIVED: tuple[Measure, ...] = ("probability", "label_share", "label_rank", "snr_db")
_OF_SAMPLE = ("task", "length", "depth", "needle_depth", "seed", "n_tokens", "labels", "answer", "n_label_tokens")
_KINDS: dict[str, pa.DataType] = {
    **dict.fromkeys(("model", "lens", "stage", "sample", "task", "answer", "dtype"), pa.string()),
    **dict.fromkeys(("stage_index", "length", "seed", "n_tokens"), pa.int64()),
    **dict.fromkeys(("needle_depth", "entropy_nats", "kl_to_final_nats", *_DERIVED), pa.float64()),
    **dict.fromkeys(("depth", *BY_LABEL), pa.list_(pa.float64())),
    "labels": pa.list_(pa.string()),
    "n_label_tokens": pa.list_(pa.int64()),
}
_SEPARATOR = "|"


def to_records(trajectory: NeedleTrajectory, *, decimals: int | None = None) -> list[dict[str, Any]]:
    """One row of plain values per lens, prompt and stage.

    model, lens, stage, stage_index; the fields of `ReadSample` (`id` as `sample`); log_probs and token_ranks by label;
    entropy_nats, kl_to_final_nats; for reading, probability, label_share, label_rank and snr_db of the answer; dtype
    of the numbers. `decimals` rounds what was measured, which makes smaller files; what is derived keeps as many
    significant digits.
    """
    if decimals is not None:
        rounded: dict[str, Any] = {name: np.round(getattr(trajectory, name), decimals) for name in ARRAYS}
        trajectory = replace(trajectory, **rounded)
    dtype = trajectory.log_probs.dtype
    arrays = {name: _shortest(getattr(trajectory, name)) for name in ARRAYS}
    derived = {name: trajectory.measure(name).astype(dtype) for name in _DERIVED}
    arrays |= {
        name: _shortest(values if decimals is None else _significant(values, decimals))
        for name, values in derived.items()
    }
    rows = []
    for k, lens in enumerate(trajectory.lenses):
        for s, sample in enumerate(trajectory.samples):
            described = {name: getattr(sample, name) for name in _OF_SAMPLE}
            described |= {name: list(value) for name, value in described.items() if isinstance(value, tuple)}
            for i, stage in enumerate(trajectory.stages):
                row = {"model": trajectory.model, "lens": lens, "stage": stage, "stage_index": i, "sample": sample.id}
                found = {name: values[k, s, i].tolist() for name, values in arrays.items()}
                found |= {name: found[name][: len(sample.labels)] for name in BY_LABEL}
                rows.append({**row, **described, **found, "dtype": str(dtype)})
    return rows


def from_records(rows: Iterable[Mapping[str, Any]]) -> NeedleTrajectory:
    """The inverse of `to_records`. Raises ValueError on missing columns, or rows that are no whole trajectory."""
    rows = list(rows)
    missing = [name for name in _KINDS if name not in _DERIVED and any(name not in row for row in rows)]
    if missing or not rows:
        raise ValueError(f"these are no records of a needle trajectory: {len(rows)} rows, without {missing}.")
    models, dtypes = ({str(row[name]) for row in rows} for name in ("model", "dtype"))
    if len(models) > 1 or len(dtypes) > 1:
        raise ValueError(f"the rows are of several models or dtypes, {sorted(models | dtypes)}: give those of one.")
    lenses = list(dict.fromkeys(str(row["lens"]) for row in rows))
    samples = {str(row["sample"]): row for row in rows}
    stages = {int(row["stage_index"]): str(row["stage"]) for row in rows}
    if len(rows) != len(lenses) * len(samples) * len(stages):
        raise ValueError(
            f"{len(rows)} rows are no whole trajectory: {len(lenses)} lenses, {len(samples)} prompts and "
            f"{len(stages)} stages make {len(lenses) * len(samples) * len(stages)}."
        )
    places = {id_: index for index, id_ in enumerate(samples)}
    width = max(len(row["labels"]) for row in samples.values())
    shape = (len(lenses), len(samples), len(stages))
    arrays = {
        name: np.full((*shape, width) if name in BY_LABEL else shape, np.nan, next(iter(dtypes))) for name in ARRAYS
    }
    for row in rows:
        at = lenses.index(str(row["lens"])), places[str(row["sample"])], int(row["stage_index"])
        for name, array in arrays.items():
            array[(*at, slice(0, len(row["labels"]))) if name in BY_LABEL else at] = row[name]
    return NeedleTrajectory(
        model=models.pop(),
        lenses=tuple(lenses),
        stages=tuple(stages[index] for index in sorted(stages)),
        samples=tuple(_read_sample(row) for row in samples.values()),
        **arrays,
    )


@checked
def save_trajectory(
    trajectory: NeedleTrajectory, path: str | Path, *, decimals: Annotated[int, Between(0.0, 15.0)] | None = None
) -> None:
    """Write `to_records` as .parquet, .csv, .csv.gz, .json or .json.gz; the same rows give the same bytes.

    decimals: of what was measured; all by default. Raises ValueError for another suffix.
    """
    path = Path(path)
    write, _ = _format(path)
    content = write(to_records(trajectory, decimals=decimals))
    write_bytes(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


@checked
def load_trajectory(path: str | Path) -> NeedleTrajectory:
    """What `save_trajectory` wrote. Raises ValueError for a file of another kind, or one that is damaged."""
    path = Path(path)
    _, read = _format(path)
    content = path.read_bytes()
    try:
        rows = read(gzip.decompress(content) if path.suffix == ".gz" else content)
        return from_records(rows)
    except (ValueError, OSError, EOFError, zlib.error, LookupError, TypeError, RecursionError, csv.Error) as error:
        raise ValueError(f"{path} is no table of a needle trajectory, or a damaged one: {error}") from error


def _to_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    number = pa.type_for_alias(rows[0]["dtype"])
    kinds = {name: number if name in _DERIVED or name in ARRAYS else kind for name, kind in _KINDS.items()}
    kinds |= {name: pa.list_(number) for name in BY_LABEL}
    table = pa.Table.from_pylist([_flat(row) for row in rows], schema=pa.schema(list(kinds.items())))
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return buffer.getvalue()


def _from_parquet(content: bytes) -> list[dict[str, Any]]:
    return pq.read_table(io.BytesIO(content), page_checksum_verification=True).to_pylist()


def _to_json(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return "".join(("[\n", ",\n".join(json.dumps(row) for row in rows), "\n]\n")).encode()


def _from_json(content: bytes) -> list[dict[str, Any]]:
    return json.loads(content)


def _to_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Lists are joined by "|"; an empty cell is None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_KINDS)
    for row in map(_flat, rows):
        cells = (row[name] for name in _KINDS)
        writer.writerow([_SEPARATOR.join(map(str, cell)) if isinstance(cell, list) else cell for cell in cells])
    return text.getvalue().encode()


def _from_csv(content: bytes) -> list[dict[str, Any]]:
    return [
        {name: _cell(cell, _KINDS[name]) for name, cell in row.items() if name in _KINDS}
        for row in csv.DictReader(io.StringIO(content.decode()))
    ]


def _cell(text: str, kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [_cell(part, kind.value_type) for part in text.split(_SEPARATOR)] if text else None
    return float(text) if pa.types.is_floating(kind) else int(text) if pa.types.is_integer(kind) else text


def _format(
    path: Path,
) -> tuple[Callable[[Sequence[Mapping[str, Any]]], bytes], Callable[[bytes], list[dict[str, Any]]]]:
    formats = {".parquet": (_to_parquet, _from_parquet), ".csv": (_to_csv, _from_csv), ".json": (_to_json, _from_json)}
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix not in formats or path.suffix == ".gz" and suffix == ".parquet":
        raise ValueError(f"{path.name} is no name for a table: end it in .parquet, .csv, .csv.gz, .json or .json.gz.")
    return formats[suffix]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with its depth as a list of numbers, as columns of one type need it."""
    depth = row["depth"]
    return {**row, "depth": [depth] if isinstance(depth, float | int) else depth}


def _read_sample(row: Mapping[str, Any]) -> ReadSample:
    values = {name: row[name] for name in _OF_SAMPLE} | {"id": str(row["sample"])}
    depth = values["depth"]
    if isinstance(depth, list):
        values["depth"] = depth[0] if len(depth) == 1 else tuple(depth)
    for name in ("labels", "n_label_tokens"):
        values[name] = tuple(values[name])
    return ReadSample(**values)


def _shortest(array: np.ndarray) -> np.ndarray:
    """In float64, the shortest decimals that stand for the same numbers in the array's own dtype."""
    return array if array.dtype == np.float64 else array.astype(str).astype(np.float64)


def _significant(array: np.ndarray, digits: int) -> np.ndarray:
    """Rounded to so many significant digits, in the array's dtype."""
    size = np.floor(np.log10(np.abs(array), where=array != 0, out=np.zeros(array.shape)))
    scale = 10.0 ** (digits - 1 - size)
    return (np.round(array * scale) / scale).astype(array.dtype)
