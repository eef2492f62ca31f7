import dataclasses
import re
import typing
from pathlib import Path

import pytest

from jaxfc.algorithm import Algorithm, DynamicSampling, EntropyBonus, HighEntropy, Overlong, TokenEntropyBonus
from jaxfc.command import InputError, dump, load
from jaxfc.config import Data, Model, Tasks, TrainRL
from jaxfc.variants import (
    Aggregation,
    Baseline,
    Centred,
    Cispo,
    Clip,
    ClipCov,
    Constant,
    Gspo,
    Importance,
    KlCov,
    Masked,
    Surrogate,
    Truncated,
)

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: Clip(low=1.5), r"algorithm.surrogate.clip.low is 1.5; right is between 0 and 1\."),
        (lambda: Clip(high=-0.1), "algorithm.surrogate.clip.high is -0.1; right is at least 0"),
        (lambda: Clip(dual=1.0), "algorithm.surrogate.clip.dual is 1.0; right is above 1, or null"),
        (lambda: Gspo(high=-1.0), "algorithm.surrogate.gspo.high"),
        (lambda: Cispo(low=2.0), "algorithm.surrogate.cispo.low"),
        (lambda: ClipCov(fraction=0.0), "algorithm.surrogate.clip_cov.fraction is 0.0; right is above 0"),
        (lambda: ClipCov(covariance_low=6.0), "covariance_high is 5.0; right is at least covariance_low, 6.0"),
        (lambda: KlCov(coefficient=-1.0), "algorithm.surrogate.kl_cov.coefficient"),
        (lambda: Constant(tokens=0.0), "algorithm.aggregation.constant.tokens is 0.0; right is above 0"),
        (lambda: Truncated(cap=0.0), "algorithm.importance.truncated.cap"),
        (lambda: Masked(low=3.0), "algorithm.importance.masked.low is 3.0; right is between 0 and high, 2.0"),
        (lambda: HighEntropy(fraction=1.5), "algorithm.high_entropy.fraction"),
        (lambda: Overlong(buffer=0), "algorithm.overlong.buffer"),
        (lambda: DynamicSampling(oversample=0), "algorithm.dynamic_sampling.oversample"),
        (lambda: EntropyBonus(cap=1.0), "algorithm.entropy has scale 0.4 and cap 1.0"),
        (lambda: TokenEntropyBonus(cap=1.0), "algorithm.token_entropy.cap"),
        (lambda: Algorithm(group_size=1), "algorithm.group_size is 1"),
        (lambda: Algorithm(kl_coefficient=-1.0), "algorithm.kl_coefficient is -1.0; right is at least 0"),
        (lambda: Algorithm(updates=0), "algorithm.updates is 0; right is at least 1"),
        (lambda: Algorithm(token_entropy=TokenEntropyBonus()), "are both set, and would add two bonuses"),
        (
            lambda: Algorithm(old_logprobs="sampler", importance=Importance(masked=Masked())),
            "the trainer's are not computed; leave one of the two out",
        ),
        (lambda: Surrogate(), "algorithm.surrogate has none of its variants; set one of clip, gspo, gspo_token"),
        (lambda: Surrogate(clip=Clip(), gspo=Gspo()), "algorithm.surrogate has clip and gspo; set one of"),
        (lambda: Baseline(), r"set one of group, centred, leave_one_out, such as algorithm.baseline.group=\{\}"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        settings()


REQUIRED = ["name=x", "model.path=m", "data.tasks.count=9"]


def read(*overrides) -> Algorithm:
    return load(TrainRL, None, [*REQUIRED, *overrides]).algorithm


def test_what_is_not_set_is_egpo_with_the_clip_of_ppo_over_tokens():
    algorithm = read()
    assert algorithm == Algorithm()
    assert algorithm.chosen_surrogate == Clip(low=0.2, high=0.2, dual=None)
    assert type(algorithm.chosen_baseline).__name__ == "GroupDeviation" and algorithm.chosen_baseline.ddof == 1
    assert type(algorithm.chosen_aggregation).__name__ == "TokenMean"
    assert algorithm.entropy == EntropyBonus() and algorithm.oversample == 1


def test_a_variant_is_chosen_from_the_command_line_by_naming_it():
    algorithm = read(
        "algorithm.surrogate.clip.high=0.28",
        "algorithm.baseline.centred={}",
        "algorithm.aggregation.constant.tokens=256",
    )
    assert algorithm.chosen_surrogate == Clip(high=0.28)
    assert algorithm.baseline == Baseline(centred=Centred())
    assert algorithm.aggregation == Aggregation(constant=Constant(tokens=256.0))
    with pytest.raises(InputError, match=r"algorithm\.surrogate has clip and gspo"):
        read("algorithm.surrogate.clip={}", "algorithm.surrogate.gspo={}")
    with pytest.raises(InputError, match=r"unknown key algorithm\.surrogate\.gpso; did you mean gspo\?"):
        read("algorithm.surrogate.gpso={}")


@pytest.mark.parametrize("kind", [Surrogate, Baseline, Aggregation, Importance])
def test_every_variant_survives_the_way_to_a_file_and_back(kind, tmp_path):
    key = kind.key.rpartition(".")[2]
    for name, hint in typing.get_type_hints(kind).items():
        if name == "key":
            continue
        chosen = kind(**{name: typing.get_args(hint)[0]()})
        config = TrainRL(
            name="x", model=Model(path="m"), data=Data(tasks=Tasks(count=1)), algorithm=Algorithm(**{key: chosen})
        )
        path = tmp_path / "config.yaml"
        path.write_text(dump(config))
        assert load(TrainRL, str(path)) == config
        assert getattr(load(TrainRL, str(path)).algorithm, key).chosen == dataclasses.replace(chosen.chosen)


def test_the_overlong_buffer_fits_into_a_completion():
    with pytest.raises(InputError, match=r"buffer is 300 tokens, but completions have room for 256"):
        read("algorithm.overlong.buffer=300")
    assert read("algorithm.overlong.buffer=256").overlong == Overlong(buffer=256)


def test_the_methods_of_the_readme_are_settings_that_differ():
    table = README.read_text().split("## Choosing the method")[1].split("## ")[0]
    recipes = [recipe for line in table.splitlines() if line.startswith("| ") for recipe in re.findall("`(.*?)`", line)]
    recipes.remove("algorithm.")
    found = [read(*(f"algorithm.{setting}" for setting in recipe.split())) for recipe in recipes]
    assert len(recipes) == 12 and len(set(found)) == 12 and Algorithm() not in found
