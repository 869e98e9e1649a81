"""Problem ddp_overlap_bucketed (2024, 2025): against one process on the whole batch, for several sizes of bucket."""

from __future__ import annotations

import pytest

from .data_parallel import check_data_parallel


@pytest.mark.parametrize("model", ["toy", "tied"])
@pytest.mark.parametrize("bucket_size_mb", [0.0001, 0.0016, 0.01, None])
def test_ddp_bucketed_trains_as_one_process(adapters_name, model, bucket_size_mb):
    """From one parameter per bucket to one bucket for all."""
    check_data_parallel(adapters_name, "bucketed", model, bucket=bucket_size_mb)
