"""Schedules against closed forms, hand-drawn pictures and an event-by-event clock."""

from __future__ import annotations

import pytest

from cs336_systems.parallel.pipeline_schedule import (
    SCHEDULES,
    Pass,
    bubble_fraction,
    draw_schedule,
    gpipe_schedule,
    one_forward_one_backward_schedule,
    simulate,
)

SIZES = [(1, 1), (1, 5), (2, 1), (2, 4), (3, 2), (4, 4), (4, 8), (5, 3), (8, 20)]


@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("forward", "backward"), [(1.0, 2.0), (3.0, 1.0)])
def test_duration_and_bubble(name, stages, micro_batches, forward, backward):
    timeline = simulate(SCHEDULES[name](stages, micro_batches), forward_time=forward, backward_time=backward)
    assert timeline.duration == (micro_batches + stages - 1) * (forward + backward)
    assert timeline.bubble_fraction == pytest.approx((stages - 1) / (micro_batches + stages - 1))
    assert bubble_fraction(stages, micro_batches) == pytest.approx(timeline.bubble_fraction)


@pytest.mark.parametrize(("stages", "micro_batches"), SIZES)
def test_activations_in_flight(stages, micro_batches):
    assert simulate(gpipe_schedule(stages, micro_batches)).peak_in_flight == (micro_batches,) * stages
    one = simulate(one_forward_one_backward_schedule(stages, micro_batches))
    assert one.peak_in_flight == tuple(min(micro_batches, stages - stage) for stage in range(stages))


@pytest.mark.parametrize("name", SCHEDULES)
def test_clock_by_brute_force(name):
    """Tick by tick: a pass may begin in a tick only if what it needs ended before."""
    stages, micro_batches, costs = 4, 6, {"forward": 2, "backward": 3}
    schedule = SCHEDULES[name](stages, micro_batches)
    ended: dict[tuple[int, str, int], int] = {}
    index, free = [0] * stages, [0] * stages
    for tick in range(200):
        for stage in range(stages):
            if index[stage] == len(schedule[stage]) or free[stage] > tick:
                continue
            work = schedule[stage][index[stage]]
            neighbour = stage - 1 if work.kind == "forward" else stage + 1
            needs = [(neighbour, work.kind, work.micro_batch)] if 0 <= neighbour < stages else []
            if work.kind == "backward":
                needs.append((stage, "forward", work.micro_batch))
            if all(ended.get(need, 10**6) <= tick for need in needs):
                free[stage] = ended[stage, work.kind, work.micro_batch] = tick + costs[work.kind]
                index[stage] += 1
    timeline = simulate(schedule, forward_time=2, backward_time=3)
    assert {
        (stage, timed.work.kind, timed.work.micro_batch): timed.end
        for stage, row in enumerate(timeline.stages)
        for timed in row
    } == ended


def test_pictures():
    assert draw_schedule(simulate(gpipe_schedule(2, 2), backward_time=1.0)).splitlines() == [
        "stage 0   F0 F1 .  .  B0 B1",
        "stage 1   .  F0 F1 B0 B1 .",
    ]
    assert draw_schedule(simulate(one_forward_one_backward_schedule(2, 3))).splitlines() == [
        "stage 0   F0 F1 .  .  B0 B0 F2 B1 B1 .  B2 B2",
        "stage 1   .  F0 B0 B0 F1 B1 B1 F2 B2 B2 .  .",
    ]


def test_stages_that_wait_for_each_other_are_found():
    forward, backward = Pass("forward", 0), Pass("backward", 0)
    with pytest.raises(ValueError, match="deadlock: stage 0"):
        simulate([[backward, forward], [forward, backward]])


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ([], "at least one stage"),
        ([[Pass("forward", 0), Pass("forward", 1)]], "one forward for each"),
        ([[Pass("forward", 0), Pass("backward", 0)], [Pass("forward", 0)]], "one backward"),
        (
            [gpipe_schedule(1, 2)[0], [Pass("forward", 1), Pass("forward", 0), *gpipe_schedule(1, 2)[0][2:]]],
            "agree on the order of forwards",
        ),
    ],
)
def test_bad_schedules(schedule, message):
    with pytest.raises(ValueError, match=message):
        simulate(schedule)


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0)])
def test_bad_sizes(sizes):
    with pytest.raises(ValueError, match="at least one stage and one micro-batch"):
        gpipe_schedule(*sizes)
