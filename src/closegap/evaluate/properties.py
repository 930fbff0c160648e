"""Networks and properties to decide, as tasks. Importing this file loads nothing heavy."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from closegap.core.errors import InputError
from closegap.core.files import read_file
from closegap.evaluate.tasks import PropertyTask
from closegap.evaluate.work import WorkOptions
from closegap.specs.vnnlib.instances import Instance
from closegap.store.keys import query_key

__all__ = ["InstanceList", "property_tasks"]

_SUFFIXES = (".gz", ".onnx", ".vnnlib")


@dataclass(frozen=True)
class InstanceList:
    """What is to be decided.

    Attributes:
        instances: rows of the list, in order.
        source: the list's path, for the report.
        cap: seconds that no instance exceeds, whatever its row says.
    """

    instances: tuple[Instance, ...]
    source: str
    cap: float | None = None

    def timeout(self, instance: Instance) -> float:
        """Seconds for one instance."""
        return instance.timeout if self.cap is None else min(self.cap, instance.timeout)


def property_tasks(rows: InstanceList, options: WorkOptions) -> Sequence[PropertyTask]:
    """A task for every row, in order.

    A file that cannot be read gives no digest; its task will tell.
    """

    @cache
    def content(path: Path) -> bytes:
        """Digest of a file; of nothing when it cannot be read."""
        try:
            return hashlib.sha256(read_file(path, InputError)).hexdigest().encode()
        except InputError:
            return b""

    tasks = []
    for index, instance in enumerate(rows.instances):
        timeout = rows.timeout(instance)
        model = content(instance.onnx).decode()
        key = query_key(
            model=model,
            inputs=content(instance.vnnlib),
            query={"index": index},
            settings={
                **options.limits,
                "engines": list(options.engines),
                "timeout": timeout,
                "seed": options.seed,
            },
        )
        name = f"{_stem(instance.onnx)} {_stem(instance.vnnlib)}"
        tasks.append(
            PropertyTask(key, index, name, timeout, str(instance.onnx), model, str(instance.vnnlib))
        )
    return tasks


def _stem(path: Path) -> str:
    """The file's name without its suffixes."""
    name = path.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name
