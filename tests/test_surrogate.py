from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from reasoning_compiler.core.programs import UNTUNED, Program
from reasoning_compiler.core.statistics import kendall_tau
from reasoning_compiler.core.steps import Known
from reasoning_compiler.proposer.random import RandomProposer
from reasoning_compiler.search.search import TreeSearch
from reasoning_compiler.surrogate.surrogate import Description, Surrogate, Trust
from toy_space import ToySpace, measure, program, unit

SPACE = ToySpace()
PROGRAMS = list(dict.fromkeys(SPACE.sample(seed) for seed in range(400)))


def features(p: Program) -> np.ndarray:
    """Returns one column for each value that a decision may have, as far as it matters here."""
    row = [math.log2(f) for name in ("i tile", "j tile") for f in p.values[name]]  # type: ignore[union-attr]
    row += [p.values["unroll"], p.values["C"] == "packed", p.values["C at"]]  # type: ignore[list-item]
    return np.array(row, np.float32)


def truth(p: Program) -> float:
    """Returns seconds: a smooth function of the features."""
    i, j = p.values["i tile"], p.values["j tile"]
    away = abs(math.log2(i[1]) - 2) + abs(math.log2(j[2]) - 3)  # type: ignore[index,arg-type]
    return 1e-3 * math.exp(0.7 * away + (0.5 if p.values["unroll"] == 0 else 0.0))


def exact(p: Program) -> float:
    return truth(p) / 3


def useless(p: Program) -> float:
    return 1e-3 * math.exp(3 * unit("prior", p.key))


def flat(p: Program) -> float:
    return 1e-3


def surrogate(prior: Callable[[Program], float], **options: int) -> Surrogate:
    return Surrogate(lambda p: Description(prior(p), features(p)), **options)


def taught(prior: Callable[[Program], float], num: int, batch: int = 4, **options: int) -> Surrogate:
    """Returns a surrogate that has predicted and then learnt of programs, a batch at a time."""
    made = surrogate(prior, **options)
    known: list[Known] = []
    for at in range(0, num, batch):
        programs = PROGRAMS[at : at + batch]
        made.predict(programs, [None] * len(programs))
        known += [Known(p, truth(p)) for p in programs]
        made.learn(known)
    return made


def predicted(made: Surrogate, programs: Sequence[Program]) -> list[float]:
    return made.predict(programs, [None] * len(programs))


REST = PROGRAMS[200:260]


# -- bounds -------------------------------------------------------------------------------------------------------


def test_a_bound_is_no_latency() -> None:
    made = surrogate(flat)
    p, q, r, s = PROGRAMS[:4]
    made.learn([Known(p, 2e-3), Known(q, 2e-3), Known(r, 5e-3, is_bound=True)])
    assert predicted(made, [s]) == pytest.approx([2e-3])  # the median error of those with a latency
    # A bound above what is expected tells something of its children; one below it tells nothing.
    assert made.predict([s], [Known(r, 5e-3, is_bound=True)]) == pytest.approx([1e-3 * 5**0.8 * 2**0.2])
    assert made.predict([s], [Known(r, 1e-3, is_bound=True)]) == pytest.approx([2e-3])


def test_trees_are_right_above_a_bound_and_wrong_below_it() -> None:
    """Packed programs take 40 times as long as the prior says, and most of them were ended at three times it."""
    slow = {p: p.values["C"] == "packed" for p in PROGRAMS}

    def takes(p: Program) -> float:
        return exact(p) * (40.0 if slow[p] else 1.0)

    rows = {p: np.array([float(slow[p])]) for p in PROGRAMS}
    told = []
    for number, p in enumerate(PROGRAMS[:120]):
        ended = slow[p] and number % 4 != 0
        told.append(Known(p, exact(p) * 3.0 if ended else takes(p), is_bound=ended))

    def ratio(known: list[Known]) -> float:
        made = Surrogate(lambda p: Description(exact(p), rows[p]))
        made.learn(known)
        secs = [math.exp(value) for value in made._learned(REST) if value is not None]
        both = [[s / exact(p) for s, p in zip(secs, REST, strict=True) if slow[p] is which] for which in (True, False)]
        return float(np.mean(both[0]) / np.mean(both[1]))

    as_bounds, as_latencies = ratio(told), ratio([each._replace(is_bound=False) for each in told])
    assert as_bounds == pytest.approx(40, rel=0.2)
    assert as_latencies < 15


# -- before and with little data ----------------------------------------------------------------------------------


def test_before_anything_is_measured_the_prior_speaks() -> None:
    made = surrogate(exact)
    assert predicted(made, REST) == pytest.approx([exact(p) for p in REST])
    assert made.trust == Trust(None, None)
    assert made.predict([], []) == []


def test_the_prior_is_scaled_by_the_median_error() -> None:
    made = surrogate(flat)
    p, q, r, s = PROGRAMS[:4]
    made.learn([Known(p, 2e-3), Known(q, 8e-3), Known(r, 4e-3)])
    assert predicted(made, [s]) == pytest.approx([4e-3])


def test_the_error_of_the_nearest_measured_ancestor_is_carried_over() -> None:
    made = surrogate(flat)
    p, q, r, s = PROGRAMS[:4]
    made.learn([Known(p, 2e-3), Known(q, 8e-3), Known(r, 4e-3)])
    # 0.8 of the anchor's error, which is a factor of 8, and 0.2 of the median's, which is 4.
    assert made.predict([s], [Known(q, 8e-3)]) == pytest.approx([1e-3 * 8**0.8 * 4**0.2])
    assert made.predict([s, s], [Known(p, 2e-3), None]) == pytest.approx([1e-3 * 2**0.8 * 4**0.2, 4e-3])


def test_an_anchor_puts_siblings_in_the_priors_order() -> None:
    made = surrogate(exact)
    anchor = Known(PROGRAMS[0], truth(PROGRAMS[0]))
    made.learn([anchor])
    secs = made.predict(REST, [anchor] * len(REST))
    assert kendall_tau(secs, [exact(p) for p in REST]) == pytest.approx(1.0)
    assert secs == pytest.approx([truth(p) for p in REST])


def test_a_prior_of_nothing_is_no_error() -> None:
    made = surrogate(lambda p: 0.0)
    made.learn([Known(PROGRAMS[0], 1e-3)])
    assert predicted(made, PROGRAMS[1:3]) == pytest.approx([1e-3, 1e-3])


def test_programs_are_described_once() -> None:
    described: list[Program] = []

    def describe(p: Program) -> Description:
        described.append(p)
        return Description(exact(p), features(p))

    made = Surrogate(describe)
    for _ in range(3):
        made.predict(PROGRAMS[:20], [None] * 20)
        made.learn([Known(p, truth(p)) for p in PROGRAMS[:20]])
    assert len(described) == len(set(described)) == 20


# -- the learned model and whether it is believed ---------------------------------------------------------------------


def test_the_learned_model_is_believed_when_it_has_ranked_better() -> None:
    made = taught(useless, 96)
    assert made.trust.learned is not None and made.trust.anchored is not None
    assert made.trust.learned > 0.3 > 0.1 > made.trust.anchored
    assert made.trust.believes_learned
    tau = kendall_tau(predicted(made, REST), [truth(p) for p in REST])
    blind = kendall_tau([useless(p) for p in REST], [truth(p) for p in REST])
    assert tau is not None and blind is not None and tau > blind + 0.3


def test_it_is_not_believed_while_the_prior_ranks_better() -> None:
    made = taught(exact, 96)
    assert made.trust.learned is not None
    assert made.trust.anchored == pytest.approx(1.0)
    assert not made.trust.believes_learned
    assert predicted(made, REST) == pytest.approx([truth(p) for p in REST])


def test_it_is_not_believed_before_it_has_been_tried() -> None:
    made = taught(useless, 16)
    assert made._model is not None, "fitted"
    assert made.trust.learned is None and not made.trust.believes_learned, "and not yet scored"
    offset = np.median([math.log(truth(p) / useless(p)) for p in PROGRAMS[:16]])
    assert predicted(made, REST) == pytest.approx([useless(p) * math.exp(offset) for p in REST])


def test_where_the_prior_has_no_order_at_all_the_learned_model_is_soon_believed() -> None:
    made = taught(flat, 64)
    assert made.trust.anchored is None or abs(made.trust.anchored) < 0.3
    assert made.trust.believes_learned
    assert Trust(anchored=None, learned=0.4).believes_learned
    assert not Trust(anchored=None, learned=-0.4).believes_learned
    assert not Trust(anchored=-0.9, learned=-0.1).believes_learned
    assert not Trust(anchored=0.4, learned=0.4).believes_learned
    assert not Trust(anchored=0.4).believes_learned


def test_only_what_was_said_before_the_measurement_is_scored() -> None:
    made = surrogate(useless)
    known = [Known(p, truth(p)) for p in PROGRAMS[:40]]
    made.learn(known)
    predicted(made, PROGRAMS[:40])  # in hindsight
    made.learn(known)
    assert made.trust == Trust()


def test_the_last_prediction_before_the_measurement_counts() -> None:
    made, programs = surrogate(useless), PROGRAMS[:12]
    known = [Known(p, truth(p)) for p in programs]
    told = [each.secs for each in known]
    predicted(made, programs)
    last = made.predict(programs, known)  # anchored, for once, on themselves
    made.learn(known)
    assert made.trust.anchored == pytest.approx(kendall_tau(last, told))
    assert made.trust.anchored != pytest.approx(kendall_tau([useless(p) for p in programs], told))


def test_trust_follows_the_most_recent_measurements() -> None:
    right_until = set(PROGRAMS[:60])
    made = taught(lambda p: exact(p) if p in right_until else 1e-6 / truth(p), 108)
    assert made.trust.anchored is not None and made.trust.anchored < -0.8


def test_predictions_refresh_with_what_is_learnt() -> None:
    made = surrogate(flat)
    before = predicted(made, REST[:1])
    made.learn([Known(PROGRAMS[0], 5e-3)])
    assert predicted(made, REST[:1]) == pytest.approx([5 * before[0]])


def test_failures_never_enter() -> None:
    """Through the search: what failed is neither learnt from nor scored."""
    learnt: list[Known] = []

    class Spying(Surrogate):
        def learn(self, known: Sequence[Known]) -> None:
            learnt[:] = known
            super().learn(known)

    made = Spying(lambda p: Description(exact(p), features(p)))
    search = TreeSearch(SPACE, RandomProposer(SPACE), made)
    failed = 0
    for _ in range(10):
        results = [(step.node, measure(step, failing_share=0.4)) for step in search.ask(4)]
        failed += sum(not m.ok for _, m in results)
        search.tell(results)
    assert failed > 5
    assert len(learnt) == 40 - failed
    assert all(search.tree.nodes[search._node_of[p]].step.measurement.ok for p, *_ in learnt)  # type: ignore[union-attr]
    assert len(made._scores) == len(learnt)
    assert UNTUNED not in {each.program for each in learnt}


def test_the_same_is_said_again() -> None:
    one, two = taught(useless, 64, seed=3), taught(useless, 64, seed=3)
    assert predicted(one, REST) == predicted(two, REST)
    assert one.trust == two.trust
    assert predicted(one, REST) != predicted(taught(useless, 64, seed=4), REST)


def test_the_same_is_said_in_every_process() -> None:
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent / "src")])
    code = "from test_surrogate import *; print(predicted(taught(useless, 48), REST))"
    env = dict(os.environ, PYTHONHASHSEED="7", PYTHONPATH=path)
    there = subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, text=True).stdout
    assert there == f"{predicted(taught(useless, 48), REST)}\n"


def test_one_thread_makes_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """XGBoost's default, a thread for each core, makes a prediction take 50 ms instead of 0.1."""
    import xgboost

    asked: list[object] = []
    make = xgboost.DMatrix
    monkeypatch.setattr(xgboost, "DMatrix", lambda *a, **o: asked.append(o.get("nthread")) or make(*a, **o))
    predicted(taught(useless, 24), REST)
    assert asked and set(asked) == {1}


def test_one_edit_from_what_is_known_is_predicted_near_it() -> None:
    made = taught(useless, 96)
    p = program(i_tile=(6, 4), j_tile=(1, 8, 8), unroll=16)
    q = program(i_tile=(6, 4), j_tile=(1, 8, 8), unroll=16, C_at=2)
    near, far = program(i_tile=(6, 4), j_tile=(1, 8, 8)), program()
    made.learn([*(Known(known, truth(known)) for known in PROGRAMS[:96]), Known(p, truth(p))])
    fast, slow = made.predict([q, far], [Known(p, truth(p)), None])
    assert fast < slow
    assert truth(q) < truth(near) < truth(far)
