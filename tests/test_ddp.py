"""Problems naive_ddp and ddp_overlap_individual_parameters (2026's names): against one process on the whole batch."""

from __future__ import annotations

import pytest

from .data_parallel import check_data_parallel


@pytest.mark.parametrize("model", ["toy", "tied"])
def test_ddp_trains_as_one_process(adapters_name, model):
    check_data_parallel(adapters_name, "ddp", model)


def test_ddp_with_four_processes(adapters_name):
    check_data_parallel(adapters_name, "ddp", "tied", world_size=4)
