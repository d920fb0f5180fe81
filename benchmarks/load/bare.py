"""FastAPI application with one route that runs one query, which the API is compared with:
`uvicorn benchmarks.load.bare:app`."""

import os
from typing import Annotated

from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "bare_items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class ItemOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str


engine = create_engine(os.environ["BARE_DATABASE_URL"], pool_size=10, max_overflow=20)
app = FastAPI()


def get_session():  # type: ignore[no-untyped-def]  # as FastAPI's own documentation has it
    with Session(engine) as session:
        yield session


@app.get("/items/{id}")
def get_item(id: int, session: Annotated[Session, Depends(get_session)]) -> ItemOut:
    return ItemOut.model_validate(session.get_one(Item, id))
