"""Which module a config's recipe is."""

import pytest
from ml_collections import ConfigDict

from speechdst import card
from speechdst.data.dialogue import BadInput
from speechdst.recipes import NAMES, recipe_of


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_has_loaders_and_a_step(name):
    recipe = recipe_of(ConfigDict({"recipe": name}))
    assert callable(recipe.loaders) and callable(recipe.make_step)
    assert name in card._USES  # what an exported model says of itself


@pytest.mark.parametrize("name", ["", "os", "joint-dst", "../joint_dst"])
def test_an_unknown_recipe_is_named(name):
    with pytest.raises(BadInput, match="joint_dst"):
        recipe_of(ConfigDict({"recipe": name}))
