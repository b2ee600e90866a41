"""What RunPod has billed, as its REST API says it, as far as we look.

Source of facts: ``GET https://api.runpod.io/v2/billing/serverless`` and ``…/billing/pods`` in
RunPod's OpenAPI document (REST API v2): US dollars for each ``bucketSize`` (``hour`` at the finest)
between ``startTime`` and ``endTime`` (RFC 3339), of one ``serverlessId`` or ``podId``. GPU, CPU,
disk and, for endpoints, a fee are in the total. Never of one job.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

__all__ = ["RestBill", "RestBillList"]


class RestBill(BaseModel):
    """What was billed for one endpoint or pod, in one hour."""

    model_config = ConfigDict(populate_by_name=True)

    start: Annotated[AwareDatetime, Field(alias="startTime")]
    end: Annotated[AwareDatetime, Field(alias="endTime")]
    endpoint: str = Field("", alias="serverlessId")
    pod: str = Field("", alias="podId")
    amount: Annotated[
        float, Field(alias="totalAmount", ge=0, le=1_000_000, allow_inf_nan=False, strict=True)
    ]


class RestBillList(BaseModel):
    """The answer."""

    records: list[RestBill]
