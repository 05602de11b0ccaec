"""Recipes: frozen, and the same after a trip through JSON."""

import dataclasses
import json

import pytest

from green_kernels import recipes
from green_kernels.recipes import Int8

RECIPES = [
    Int8(),
    Int8(min_features=1),
    Int8(rows=64),
    Int8(subclasses=("Projection", "models.Projection")),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_json_both_ways(recipe):
    assert recipes.from_json(recipe.to_json()) == recipe
    assert recipes.from_dict(recipe.to_dict()) == recipe
    assert json.loads(recipe.to_json())["kind"] == "Int8"


def test_missing_fields_take_their_defaults():
    assert recipes.from_json('{"kind": "Int8"}') == Int8()


def test_is_frozen_and_comparable():
    recipe = Int8(subclasses=["Projection"])
    assert recipe == Int8(subclasses=("Projection",)) and len({recipe, Int8()}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.min_features = 3


WRONG = {
    "no object": ("[1]", TypeError, "recipe must be a JSON object, got \\[1\\]"),
    "no kind": ("{}", ValueError, "recipe kind must be one of Int8, got None"),
    "unknown kind": ('{"kind": "Int3"}', ValueError, "one of Int8, got 'Int3'"),
    "kind of another type": ('{"kind": [1]}', ValueError, "one of Int8, got \\[1\\]"),
    "unknown field": ('{"kind": "Int8", "bits": 8}', ValueError, "Int8 has the .*, got 'bits'"),
    "text for a number": ('{"kind": "Int8", "min_features": "9"}', TypeError, "int, got '9'"),
    "truth for a number": ('{"kind": "Int8", "min_features": true}', TypeError, "int, got True"),
    "out of range": ('{"kind": "Int8", "min_features": 0}', ValueError, "at least 1, got 0"),
    "a number for truth": (
        '{"kind": "Int8", "keep_faster": 1}',
        TypeError,
        "keep_faster must be a bool, got 1",
    ),
    "no rows": ('{"kind": "Int8", "rows": 0}', ValueError, "rows must be at least 1, got 0"),
    "rows in words": ('{"kind": "Int8", "rows": "all"}', TypeError, "rows must be an int"),
    "text for names": ('{"kind": "Int8", "subclasses": "A"}', TypeError, "class names, got 'A'"),
    "numbers for names": ('{"kind": "Int8", "subclasses": [1]}', TypeError, "class names, got"),
    "not JSON": ("{", ValueError, "property name"),
}


@pytest.mark.parametrize("text, error, message", WRONG.values(), ids=WRONG)
def test_refuses(text, error, message):
    with pytest.raises(error, match=message):
        recipes.from_json(text)
