"""YAML in, frozen pydantic models out, or errors that name file:line:column and path."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")
Grade = Literal["datasheet", "measured", "calibrated", "estimate"]


class Spec(BaseModel):
    """Anything a user writes: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Fact(Spec, Generic[T]):
    """A stored number: its value, where it comes from and how good it is."""

    value: T
    source: str
    grade: Grade
    note: str | None = None
