"""Fields of a stranger's `config.json`, each checked as it is read: errors name the field as the file spells it.

A field that is absent or null is silent: the caller's default stands.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from typing import Any

from diffmamba_interp.models.checkpoint_files import printable

log = logging.getLogger(__name__)

MISSING: Any = object()
"""The default of a field that must be there."""

LARGEST = 2**40
"""Of a size: beyond it torch cannot even count the bytes of a matrix."""

FLOAT32_MAX = 3.4028234663852886e38
"""Written for infinity, as the libraries that read the file need a JSON number; read as infinity."""


class ConfigFields:
    """The values of one JSON object, and which of them were asked for.

    within: what the object is called in errors (`"ssm_cfg."`). spellings: a name asked for, to the names it may have
    in the file, tried in this order. Every method raises ValueError, naming the field, for a value of another kind.
    """

    def __init__(
        self, raw: Mapping[str, Any], within: str = "", spellings: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        self.raw = raw
        self.within = within
        self.spellings = spellings or {}
        self._asked: set[str] = set()

    def value(self, name: str, default: Any = None) -> Any:
        """The field as it is. Raises ValueError where two spellings of it contradict each other."""
        spellings = self.spellings.get(name, (name,))
        self._asked.update(spellings)
        said = [spelling for spelling in spellings if self.raw.get(spelling) is not None]
        for other in said[1:]:
            if self.raw[other] != self.raw[said[0]]:
                raise ValueError(
                    f"{self.within}{said[0]} is {self.raw[said[0]]!r}, but {self.within}{other}, which says the same "
                    f"in another library, is {self.raw[other]!r}: remove the wrong one."
                )
        if said:
            return self.raw[said[0]]
        if default is MISSING:
            raise ValueError(f"{self.within}{spellings[0]} is missing: the file is incomplete or malformed.")
        return default

    def says(self, name: str) -> bool:
        """Whether the file holds the field, not null."""
        return self.value(name) is not None

    def integer(self, name: str, default: Any = MISSING, *, at_least: int = 1) -> Any:
        value = self.value(name, default)
        if value is default:
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= LARGEST:
            raise self.error(name, value, f"a whole number of at least {at_least}, and no astronomical one")
        return value

    def number(self, name: str, default: Any = MISSING) -> Any:
        value = self.value(name, default)
        if value is default:
            return value
        plain = _as_float(value)
        if plain is None or not 0 <= plain < math.inf:
            raise self.error(name, value, "a finite number of at least 0")
        return plain

    def flag(self, name: str, default: Any = MISSING) -> Any:
        value = self.value(name, default)
        if value is not default and not isinstance(value, bool):
            raise self.error(name, value, "true or false")
        return value

    def stored_size(self, name: str, stored: int | None, default: int) -> int:
        """A size that the config says, else the tensors, else its library's default.

        Raises ValueError where the config says another one than the tensors.
        """
        said = self.integer(name, None)
        if None not in (said, stored) and said != stored:
            raise ValueError(
                f"{self.within}{name} is {said}, but the weights are those of {stored}. Correct the config."
            )
        return int(next(size for size in (said, stored, default) if size is not None))

    def stored_flag(self, name: str, stored: bool | None, default: bool) -> bool:
        """The same for whether there is a bias."""
        said = self.flag(name, None)
        if None not in (said, stored) and said != stored:
            has = "have" if stored else "do not have"
            raise ValueError(f"{self.within}{name} is {said}, but the weights {has} this bias. Correct the config.")
        return bool(next(flag for flag in (said, stored, default) if flag is not None))

    def limits(self, name: str) -> tuple[float, float]:
        """An interval (low, high); silent is (0, infinity)."""
        value = self.value(name, (0.0, math.inf))
        bounds = [_as_float(bound) for bound in value] if isinstance(value, list | tuple) else []
        if len(bounds) != 2 or None in bounds or not 0 <= bounds[0] < bounds[1]:  # type: ignore[operator]
            raise self.error(name, value, "two numbers, low and high, with 0 <= low < high")
        low, high = bounds
        return low, math.inf if high >= FLOAT32_MAX else high  # type: ignore[return-value, operator]

    def mapping(self, name: str) -> dict[str, Any]:
        value = self.value(name, {})
        if not isinstance(value, dict):
            raise self.error(name, value, "an object of settings")
        return value

    def unknown(self, harmless: Iterable[str] = ()) -> list[str]:
        """Fields that nobody asked for and that are not in `harmless`; null and private ones are left out."""
        known = self._asked | set(harmless)
        return [
            f"{self.within}{name}"
            for name, value in self.raw.items()
            if name not in known and value is not None and not name.startswith("_")
        ]

    def error(self, name: str, value: object, needed: str) -> ValueError:
        spelling = next((s for s in self.spellings.get(name, (name,)) if self.raw.get(s) is not None), name)
        shown = repr(value)
        shown = shown if len(shown) <= 80 else shown[:77] + "..."
        return ValueError(f"{self.within}{spelling} is {shown}: it must be {needed}.")


def warn_of_unknown(names: list[str]) -> None:
    """Say in the log which fields of a config change nothing here."""
    if names:
        log.warning(
            "config.json has fields that this loader does not know, so they change nothing here: %s.",
            ", ".join(map(printable, names)),
        )


def json_limits(limits: tuple[float, float]) -> list[float]:
    """An interval as every library reads it: infinity becomes the largest float32, which clamps nothing."""
    return [min(bound, FLOAT32_MAX) for bound in limits]


def _as_float(value: object) -> float | None:
    """A number, `"inf"`, or transformers 5's `{"__float__": "Infinity"}`; None for anything else, NaN included."""
    if isinstance(value, dict):
        value = value.get("__float__")
        if not isinstance(value, str):
            return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if isinstance(value, str) and math.isfinite(number):
        return None
    return None if math.isnan(number) else number
