"""What every recipe must do: be closed, say what is wrong, and survive being written down."""

from __future__ import annotations

import copy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aequorea.errors import SpecError
from aequorea.registry import build, describe, find
from aequorea.specs import Spec


def claim(true: bool, sentence: str) -> None:
    """Raise :class:`AssertionError` with a sentence unless it is true."""
    if not true:
        raise AssertionError(sentence)


def recipe(kind: str, name: str, **fields: Any) -> Any:
    """Check the recipe of a registered plug, and that the plug is built from it alone.

    Parameters
    ----------
    kind, name
        As registered, e.g. ``"tasks"``, ``"semantic"``.
    **fields
        Of its recipe.

    Returns
    -------
    object
        The plug.
    """
    who = f"{kind[:-1]} '{name}'"
    cls = find(kind, name).Spec
    claim(issubclass(cls, Spec), f"{who}: its Spec is no aequorea.specs.Spec")
    claim(bool(cls.model_config.get("frozen")), f"{who}: its Spec can be changed after it was made")
    for field in [*list(cls.model_fields)[:1], "zzyzx"]:
        wrong = f"{field}_"
        try:
            cls.parse({wrong: 1})
        except SpecError as error:
            line = str(error)
            claim("\n" not in line, f"{who}: a wrong word is explained in more than one line")
            claim(f"'{wrong}'" in line, f"{who}: the error of the wrong word '{wrong}' does not name it")
            claim(
                field in ("zzyzx", "") or f"'{field}'" in line, f"{who}: '{wrong}' does not suggest '{field}'"
            )
        else:
            raise AssertionError(f"{who}: its Spec takes the unknown word '{wrong}'")
    plug = build(kind, {"name": name, **fields})
    words = describe(kind, name, plug)
    kept = copy.deepcopy(words)
    claim(build(kind, words).spec == plug.spec, f"{who}: what describe() says builds another recipe")
    claim(words == kept, f"{who}: building it changed the words it was built from")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "spec.yaml"
        path.write_text(plug.spec.to_yaml(), encoding="utf-8")
        claim(cls.from_yaml(path) == plug.spec, f"{who}: its recipe does not come back from YAML")
    return plug
