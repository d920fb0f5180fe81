from typing import Literal

from pydantic import Field

from api.schemas.common import Digest, Output, Time


class DeletionOut(Output):
    id: str = Field(examples=["del_01m84b6j3wmxg6fxz5yqv3ce5r"])
    tenant_id: str
    kind: Literal["domain", "tenant"]
    target: str = Field(description="The id of what was deleted.", examples=["dom_01m84b6j2hsp29f4pz3j0s1ax6"])
    actor_key_id: str | None = Field(description="The key that asked for it.")
    rows: dict[str, int] = Field(description="Rows that went with it at once, by table.", examples=[{"adapters": 3}])
    objects: int = Field(description="Stored files that were removed so far.")
    bytes: int = Field(description="Of these files.")
    created_at: Time = Field(description="When it was asked for, and the rows were gone.")
    done_at: Time | None = Field(
        description="When no file was left, and no living worker held an adapter of it in memory. Null until then."
    )


class DeletionReceiptOut(DeletionOut):
    adapters: list[Digest] = Field(description="SHA-256 of the adapters that were deleted.")
