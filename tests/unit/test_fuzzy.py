"""The distribution of the probability to be fooled, on draws whose outcome is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from test_figures import made_up_rows

from purification.reporting.fuzzy import fuzziness, fuzzy, share_up_to
from purification.reporting.rows import Rows
from purification.statistics import average_robustness, wilson

DRAWS = 20


def judged(wrong: list[int], attack: str = "fixed", purifier: str = "ddpm_150") -> pd.DataFrame:
    """Images with label 1, of whose draws the first so many are wrong."""
    seen = [np.where(np.arange(DRAWS) < count, 0, 1) for count in wrong]
    columns = {"attack": attack, "image": range(len(wrong)), "label": 1, "fixed": 1, "unpurified": 1, "varied": seen}
    return pd.DataFrame(columns).assign(purifier=purifier)


def test_fuzziness_is_the_share_of_wrong_draws() -> None:
    assert fuzziness(judged([0, 1, 10, 20])).tolist() == pytest.approx([0.0, 0.05, 0.5, 1.0])


def test_the_curve_counts_images_up_to_every_level() -> None:
    settings = made_up_rows().settings
    settings = {**settings, "evaluation": {**settings["evaluation"], "fuzziness": [0.0, 0.05, 0.5, 0.99, 1.0]}}
    frame = pd.concat([judged([0, 0, 1, 10, 20]), judged([20, 20], "eot"), judged([0], purifier="ddpm_10")])
    table = fuzzy(Rows({"purified": frame}, settings))
    assert set(table.purifier) == {"ddpm_150"}, "only purifiers of run.varied"
    own = table[table.attack == "fixed"]
    assert own.share.tolist() == pytest.approx([0.4, 0.6, 0.8, 0.8, 1.0])
    assert table[table.attack == "eot"].share.tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]
    interval = wilson(2, 5)
    assert (own.share_low.iloc[0], own.share_high.iloc[0]) == (interval.low, interval.high)
    assert (own.draws == DRAWS).all() and (own.n == 5).all()


def test_its_area_is_the_mean_robustness() -> None:
    """The mean of mu is the integral of 1 - CFR over [0, 1]."""
    frame = judged(list(np.random.default_rng(0).integers(0, DRAWS + 1, 50)))
    grid = np.arange(DRAWS) / DRAWS
    area = np.mean([1.0 - share_up_to(fuzziness(frame), level).value for level in grid])
    correct = np.stack(frame.varied.to_list()) == 1
    assert area == pytest.approx(1.0 - average_robustness(correct).mean())
