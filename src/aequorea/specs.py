"""Recipes: frozen, closed, readable as YAML.

A spec is the whole description of a thing. Each class that can be registered carries its own spec class as
``Spec`` and is built from an instance of it alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from aequorea.errors import SpecError, nearest


class Spec(BaseModel):
    """Base of every recipe: unknown words are errors, values cannot be changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, data: dict[str, Any], where: str = "") -> Self:
        """Build from plain data.

        Parameters
        ----------
        data
            Words and values, as read from YAML or a model card.
        where
            Named in the error, e.g. the file that the data came from.

        Raises
        ------
        SpecError
            One line naming the wrong word, its path, and the nearest right word or the accepted values.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise SpecError(_explain(cls, error, where)) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Self:
        """Read from a YAML file; raises :class:`SpecError` with the file's name in it."""
        path = Path(path)
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise SpecError(f"{path}: no such file") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            first = str(error).splitlines()[0]
            raise SpecError(f"{path}: not YAML ({first})") from None
        if not isinstance(data, dict):
            raise SpecError(f"{path}: expected 'word: value' lines, found {type(data).__name__}")
        return cls.parse(data, where=str(path))

    def plain(self) -> dict[str, Any]:
        """Return JSON-ready data that :meth:`parse` reads back to an equal spec."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """Return YAML text that :meth:`from_yaml` reads back to an equal spec."""
        return yaml.safe_dump(self.plain(), sort_keys=False, allow_unicode=True)


def _explain(cls: type[Spec], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    prefix = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        word = str(first["loc"][-1])
        return f"{prefix}unknown word '{path}' in {cls.__name__}; {nearest(word, _fields(cls, first['loc']))}"
    return f"{prefix}{cls.__name__}.{path}: {first['msg'].lower()} (got {first['input']!r})"


def _fields(cls: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names of the (possibly nested) spec that the location points into."""
    for part in location[:-1]:
        field = cls.model_fields.get(str(part))
        inner = field.annotation if field is not None else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        cls = inner
    return list(cls.model_fields)
