"""Profiles with fitted sets in: YAML text edited section by section, so that all else stays as its author wrote it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from simfleet.calibration.operators import Calibration, Fitted, plain
from simfleet.calibration.power import PowerCalibration, PowerFit
from simfleet.document import Document, Location, flow
from simfleet.hardware.profile import Profile
from simfleet.library import Library
from simfleet.spec import build

SERVING = "serving"
"""The source of what was fitted to serving runs."""
BOARD, BOARD_ORIGIN = "board-power", "Board watts of serving runs, fitted to docs/physics.md"
"""The source of power constants that had none of their own."""


def save(found: Calibration | PowerCalibration, library: Library, out: Path, single: bool) -> None:
    """Write the new profiles: to the file `out` where a single one was asked for, else into the folder `out`."""
    if not single:
        out.mkdir(parents=True, exist_ok=True)
    texts: dict[str, str] = {}
    for device in found.fitted if isinstance(found, Calibration) else [fit.device for fit in found.fits]:
        texts[device] = library.path("hardware_profiles", device).read_text(encoding="utf-8")
    if isinstance(found, Calibration):
        texts = {device: write(texts[device], fits, found.digests) for device, fits in found.fitted.items()}
    else:
        texts = {fit.device: write_power(texts[fit.device], fit, found.digests) for fit in found.fits}
    for device, text in texts.items():
        (out if single else out / f"{device}.yaml").write_text(text, encoding="utf-8")


def write_power(text: str, fit: PowerFit, digests: Sequence[str]) -> str:
    """A profile's YAML with the fitted constants of its power section, and the files they come from among its sources; all else as it
    was, and `limit` is what it was fitted with. Raises SpecError where the result would not be a profile."""
    document = Document.from_text(text)
    old = document.data["power"]["busy"]
    source = old["source"] if old["grade"] == "calibrated" else BOARD
    origin = document.data["sources"].get(source, BOARD_ORIGIN).partition("; files: ")[0]
    values = {"gap": f"{fit.watts.gap:.4g} W", "busy": f"{fit.watts.busy:.4g} W", "per_activation": f"{1e9 * fit.watts.per_activation:.4g} nJ/element"}  # fmt: skip
    lines = text.splitlines()
    for name in sorted(fit.fitted, key=lambda name: document.mark(("power", name)), reverse=True):
        fact = {"value": values[name], "source": source, "grade": "calibrated", "note": fit.note}
        lines = _replaced(lines, document, ("power", name), [f"  {name}: {flow(fact)}"])
    line = "  " + flow({source: f"{origin}; files: {', '.join(digests)}"})[1:-1]
    written = "\n".join(_replaced(lines, document, ("sources", source), [line])) + "\n"
    build(Profile, Document.from_text(written))
    return written


def write(text: str, fits: Sequence[Fitted], digests: Mapping[str, str]) -> str:
    """A profile's YAML with new sets in its step section, and the files they come from among its sources; all else as it was.

    A set that was calibrated keeps its source's key, a new one has `operators`. Sets that are marked as another's ("bf16's", "the
    all-gather's") follow it: estimates until a table has their own rows, calibrated ones for good, for their note says why. Sets that
    were fitted to serving runs stay: they are there because the table's kernel is not the one that serves.
    Raises SpecError where the result would not be a profile.
    """
    document = Document.from_text(text)
    step: dict[str, Any] = document.data["step"]
    files: dict[str, set[str]] = {}
    for one in fits:
        place = step.setdefault(one.family, {}) if one.form else step
        key = one.form or one.family
        old = place.get(key) or {}
        if old.get("grade") == "calibrated" and (_lender(old) in place or old["source"] == SERVING):
            continue
        source = old["source"] if old.get("grade") == "calibrated" else "operators"
        place[key] = {"value": plain(one.constants), "source": source, "grade": "calibrated", "note": one.note}
        files.setdefault(source, set()).update(digests[name] for name in one.files)
    _lend(step, {(one.family, one.form) for one in fits})
    lines = _replaced(text.splitlines(), document, ("step",), _step_lines(step))
    for key, names in sorted(files.items(), key=lambda item: document.mark(("sources", item[0])), reverse=True):
        origin = (
            document.data["sources"].get(key, "Operator tables, fitted to docs/physics.md").partition("; files: ")[0]
        )
        line = "  " + flow({key: f"{origin}; files: {', '.join(sorted(names))}"})[1:-1]
        lines = _replaced(lines, document, ("sources", key), [line])
    written = "\n".join(lines) + "\n"
    build(Profile, Document.from_text(written))
    return written


def _lend(step: dict[str, Any], new: set[tuple[str, str]]) -> None:
    """Give the values of `new` sets, (family, format), to those that are marked as theirs, and to those marked as these's."""
    for family, sets in step.items():
        for form, fact in [("", sets)] if "value" in sets else sets.items():
            name = _lender(fact)
            if name and ((family, name) in new or (name, "") in new):
                other = sets[name] if form else step[name]
                fact |= {key: other[key] for key in ("value", "source")}
                new.add((family, form))


def _lender(fact: Mapping[str, Any]) -> str:
    """The family or format that a set is marked as another's of, "" where it is its own."""
    found = re.match(r"(?:the )?([\w-]+)'s\b", fact.get("note") or "")
    return found[1].replace("-", "_") if found else ""


def _step_lines(step: Mapping[str, Any]) -> list[str]:
    lines = ["step:"]
    for family, sets in step.items():
        if "value" in sets:
            lines.append(f"  {family}: {flow(sets)}")
        else:
            lines += [f"  {family}:", *(f"    {form}: {flow(fact)}" for form, fact in sets.items())]
    return lines


def _replaced(lines: Sequence[str], document: Document, location: Location, new: Sequence[str]) -> list[str]:
    """Lines with those of one key replaced, up to the next key that is not inside it and the comments above that; a new key goes
    below its parent. Keys are found by their marks, so that sections must be replaced from the last to the first."""
    if location not in document.keys:
        start = end = document.keys[location[:-1]].line
    else:
        start = document.keys[location].line - 1
        after = [
            mark.line - 1
            for key, mark in document.keys.items()
            if mark.line > start + 1 and key[: len(location)] != location
        ]
        end = min(after, default=len(lines))
        while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
            end -= 1
    return [*lines[:start], *new, *lines[end:]]
