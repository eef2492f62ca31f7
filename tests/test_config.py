import dataclasses
import math

import pytest

from jaxfc.config import Muon, Optimizer


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, r"optimizer.learning_rate is 0.0; right is above 0\."),
        ({"learning_rate": math.nan}, "optimizer.learning_rate is nan"),
        ({"beta1": 1.0}, r"optimizer.beta1 is 1.0; right is at least 0 and below 1\."),
        ({"beta2": -0.1}, "optimizer.beta2 is -0.1; right is at least 0 and below 1"),
        ({"weight_decay": -0.01}, "optimizer.weight_decay is -0.01; right is at least 0"),
        ({"clip_norm": 0.0}, "optimizer.clip_norm is 0.0; right is above 0"),
        ({"warmup_steps": -1}, "optimizer.warmup_steps is -1"),
        ({"decay_steps": -1}, "optimizer.decay_steps is -1"),
        ({"final_fraction": 1.1}, "optimizer.final_fraction is 1.1; right is between 0 and 1"),
        ({"warmup_steps": 10, "decay_steps": 10}, "optimizer.decay_steps is 10 and counts the 10 warmup_steps in"),
    ],
)
def test_an_optimizer_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Optimizer(**settings)


def test_muon_has_a_rate_of_its_own_above_zero():
    with pytest.raises(ValueError, match=r"optimizer.muon.learning_rate is 0.0; right is above 0\."):
        Muon(learning_rate=0.0)


def test_what_stands_at_the_limits_is_right():
    Optimizer(beta1=0.0, beta2=0.0, weight_decay=0.0, clip_norm=math.inf, final_fraction=0.0)
    Optimizer(final_fraction=1.0, warmup_steps=10, decay_steps=11)
    assert dataclasses.replace(Optimizer(), muon=Muon()).muon.learning_rate == 0.02
