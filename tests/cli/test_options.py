"""Words of the command line become values of recipes."""

from __future__ import annotations

from typing import Any

import pytest

from aequorea.cli.options import set_fields
from aequorea.errors import SpecError


def test_words_reach_as_deep_as_the_recipe() -> None:
    recipes: dict[str, dict[str, Any]] = {"objective": {"name": "restore_many"}, "task": {}}
    words = ["objective.degrade.camera.gain=[1, 2]", "objective.degrade.planes=8", "objective.temperature=3"]
    set_fields(recipes, [*words, "factor=3"], default="task")
    assert recipes["objective"] == {
        "name": "restore_many",
        "degrade": {"camera": {"gain": [1, 2]}, "planes": 8},
        "temperature": 3,
    }
    assert recipes["task"] == {"factor": 3}
    own: dict[str, Any] = {}
    set_fields(recipes, ["patch=[8, 32, 32]", "factor=4"], default="task", own=(own, ("patch",)))
    assert own == {"patch": [8, 32, 32]} and recipes["task"] == {"factor": 4}
    with pytest.raises(SpecError, match="did you mean 'objective'"):
        set_fields(recipes, ["objectiv.degrade.planes=8"])
    with pytest.raises(SpecError, match="no recipe is called"):
        set_fields(recipes, ["factor=3"])
