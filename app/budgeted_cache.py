"""Values within a memory budget: each made once, the least recently used gone first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock, RLock
from typing import Any
from weakref import WeakValueDictionary


class BudgetedCache:
    """Values by key up to `budget_bytes`; each is made once, however many sessions ask for it at a time."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._entries: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = Lock()
        self._locks: WeakValueDictionary[Hashable, Any] = WeakValueDictionary()

    @property
    def used_bytes(self) -> int:
        return sum(size for _, size in self._entries.values())

    def get(self, key: Hashable, make: Callable[[], Any], size_bytes: Callable[[Any], int]) -> Any:
        """The value of `key`, made by `make` if it is not held; nothing is kept of a `make` that raises."""
        with self.lock_of(key):
            with self._lock:
                if key in self._entries:
                    self._entries.move_to_end(key)
                    return self._entries[key][0]
            value = make()
            with self._lock:
                self._entries[key] = (value, size_bytes(value))
                while self.used_bytes > self.budget_bytes and len(self._entries) > 1:
                    self._entries.popitem(last=False)
            return value

    def held(self) -> list[tuple[Hashable, int]]:
        """Keys and sizes in bytes, the most recently used last."""
        with self._lock:
            return [(key, size) for key, (_, size) in self._entries.items()]

    def put(self, key: Hashable, value: Any, size_bytes: int) -> None:
        """Hold a value that was made elsewhere; one that is held already stays."""
        self.get(key, lambda: value, lambda _: size_bytes)

    def lock_of(self, key: Hashable) -> Any:
        """The lock under which `key` is made, or used if it serves one at a time; gone when nobody holds it."""
        with self._lock:
            return self._locks.setdefault(key, RLock())
