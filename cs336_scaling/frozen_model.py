"""The base of every message of the training service: frozen, and refusing fields it does not know.

It stands alone so that `schemas` and `training` both import it without a circle. Read next: `schemas/experiment.py`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """A message: immutable, without infinities, and with no room for a misspelt field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
