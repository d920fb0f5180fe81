from pydantic import Field

from api.schemas.common import Digest, Output, Time
from core.service.deletions import DeletionKind


class DeletionOut(Output):
    id: str = Field(examples=["del_01m84b6j3wmxg6fxz5yqv3ce5r"])
    tenant_id: str
    kind: DeletionKind
    target: str = Field(description="Id of the deleted object.", examples=["dom_01m84b6j2hsp29f4pz3j0s1ax6"])
    actor_key_id: str | None = Field(description="Key that requested the deletion.")
    rows: dict[str, int] = Field(description="Deleted database rows, by table.", examples=[{"adapters": 3}])
    objects: int = Field(description="Number of stored files deleted so far.")
    bytes: int = Field(description="Total size of these files.")
    created_at: Time = Field(description="Time of the request. The rows are deleted from then on.")
    done_at: Time | None = Field(
        description="Time when all files were deleted and no live worker had its adapters in memory. Null until then."
    )


class DeletionReceiptOut(DeletionOut):
    adapters: list[Digest] = Field(description="SHA-256 of the deleted adapters.")
