"""Problem ddp_overlap_individual_parameters (2024's and 2025's names): against one process on the whole batch."""

from __future__ import annotations

import pytest

from .data_parallel import check_data_parallel


@pytest.mark.parametrize("model", ["toy", "tied"])
def test_ddp_individual_parameters_trains_as_one_process(adapters_name, model):
    check_data_parallel(adapters_name, "individual", model)
