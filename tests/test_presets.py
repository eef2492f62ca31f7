"""Architectures by name have the parameters that their publishers count."""

import typing

import pytest

from jaxfc.models.architecture import config_fields
from jaxfc.models.decoder import parameter_count
from jaxfc.models.presets import Name, preset

PUBLISHED = {
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
}
"""Tied heads are counted once."""


@pytest.mark.parametrize("name", [name for name in typing.get_args(Name) if name != "small"])
def test_it_has_the_published_number_of_parameters(name):
    assert parameter_count(preset(name)) == PUBLISHED[name.replace("-coder", "")]


@pytest.mark.parametrize(
    ("name", "family"), [("qwen2.5-3b", "qwen2"), ("qwen3-4b", "qwen3"), ("llama-3.2-1b", "llama")]
)
def test_it_is_of_its_family(name, family):
    assert config_fields(preset(name))["model_type"] == family
