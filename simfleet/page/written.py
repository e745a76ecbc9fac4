"""Plain data as YAML that people would write: short mappings on one line."""

import json
import re
from typing import Any

from simfleet.spec import Spec

WIDTH = 100
_PLAIN = re.compile(
    r"[A-Za-z_/$(][A-Za-z0-9_/.$()+*-]*(?: [A-Za-z0-9_/.$()+*-]+)*|\d[\d.]*[ ]?[A-Za-z/%$](?:[A-Za-z0-9/%$ -]*[A-Za-z0-9/%$])?"
)
_WORDS = re.compile(r"(?:true|false|null|yes|no|on|off|\.?inf|\.?nan|\d[\d.]*e[-+]?\d+)", re.IGNORECASE)


def yaml(data: Any) -> str:
    """The text of a document; `simfleet` reads the same data from it."""
    return "\n".join(_block(data)) + "\n"


def _block(data: Any) -> list[str]:
    """Lines of a mapping or a list, nested ones indented."""
    if isinstance(data, list):
        return [line for item in data for line in _item(item)]
    lines = []
    for key, value in data.items():
        short = f"{_scalar(str(key))}: {_flow(value)}"
        if not isinstance(value, dict | list) or not value or (len(short) <= WIDTH and _is_flat(value)):
            lines.append(short)
        else:
            lines += [f"{_scalar(str(key))}:", *(f"  {line}" for line in _block(value))]
    return lines


def _item(item: Any) -> list[str]:
    """One item of a list."""
    flow = f"- {_flow(item)}"
    if not isinstance(item, dict | list) or not item or (len(flow) <= WIDTH and _is_flat(item)):
        return [flow]
    first, *rest = _block(item)
    return [f"- {first}", *(f"  {line}" for line in rest)]


def _is_flat(value: Any) -> bool:
    """Whether all that is inside are plain values."""
    return not any(isinstance(item, dict | list) for item in (value.values() if isinstance(value, dict) else value))


def _flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Spec):
        value = value.model_dump(mode="json", by_alias=True)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_scalar(str(key))}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_flow(item) for item in value) + "]"
    return _scalar(value)


def _scalar(value: Any) -> str:
    """A text as it is where no reader could take it for something else; anything else as JSON has it."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    text = str(value)
    return text if _PLAIN.fullmatch(text) and not _WORDS.fullmatch(text) else json.dumps(text, ensure_ascii=False)
