"""Find profiles, models, sites, workloads and scenarios by name: the user's own folders first, then the shipped ones."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from simfleet.document import Document, Mark, Problem, SpecError, did_you_mean, read
from simfleet.facility.site import Site
from simfleet.hardware.profile import Profile
from simfleet.spec import build
from simfleet.workload.models import Model

KINDS = {
    "hardware_profiles": "hardware profile",
    "models": "model",
    "engines": "engine",
    "sites": "site",
    "cooling": "cooling preset",
    "workloads": "workload preset",
    "scenarios": "scenario",
}
SUFFIXES = (".yaml", ".yml")


PLACES = {
    "hardware_profiles": "pools.NAME.device",
    "models": "pools.NAME.model",
    "engines": "pools.NAME.engine",
    "sites": "sites.NAME.preset",
    "cooling": "sites.NAME.overhead",
    "workloads": "workload.streams.NAME.preset",
    "scenarios": "simfleet run NAME",
}
"""Where a name of each kind goes."""

ALIASED = ("hardware_profiles", "models", "engines")
"""Kinds whose things have other names elsewhere."""

TELLTALES = {
    "hardware_profiles": ("flops",),
    "models": ("layers",),
    "engines": ("release",),
    "sites": ("carbon_intensity", "electricity_price"),
    "cooling": ("mechanical",),
    "workloads": ("arrival", "week"),
    "scenarios": ("pools",),
}


@dataclass(frozen=True)
class Library:
    """Documents by kind (see KINDS) and name.

    Looked up in `paths` (`--path`), then in the folders of the environment variable SIMFLEET_PATH, then among those shipped. A
    folder may hold the YAML files themselves or subfolders named like the kinds. Raises SpecError for a folder that is not there.
    """

    paths: tuple[Path, ...] = ()
    _documents: dict[Path, Document] = field(default_factory=dict, compare=False, repr=False)
    _known: dict[str, dict[str, Path]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        environment = os.environ.get("SIMFLEET_PATH", "").split(os.pathsep)
        own = {Path(path): "--path" for path in self.paths} | {
            Path(part): "SIMFLEET_PATH" for part in environment if part
        }
        problems = [
            Problem(Mark(origin), "", f"no such folder: `{path}`") for path, origin in own.items() if not path.is_dir()
        ]
        if problems:
            raise SpecError(problems)
        object.__setattr__(self, "paths", tuple(own))

    def document(self, kind: str, name: str, folder: Path = Path()) -> Document:
        """The document `name`; a path (with .yaml, or a / that no alias has) is taken from `folder`.

        Raises LookupError for an unknown name, saying what is near, and SpecError for a file that cannot be read.
        """
        path = folder / name if self._is_path(kind, name) else self.path(kind, name)
        if path not in self._documents:
            self._documents[path] = read(path)
        return self._documents[path]

    def _is_path(self, kind: str, name: str) -> bool:
        return name.endswith(SUFFIXES) or ("/" in name and plain(name) not in self._aliases(kind))

    def data(self, kind: str, name: str) -> dict[str, Any]:
        """The plain data of a name. Raises as `document` does."""
        data: dict[str, Any] = self.document(kind, name).data
        return data

    def path(self, kind: str, name: str) -> Path:
        """The file of a name or alias, as it is or as exported elsewhere (see `plain`). Raises LookupError, saying what is near."""
        for folder in self._folders(kind):
            for suffix in SUFFIXES:
                if os.path.isfile(folder / (name + suffix)):
                    return folder / (name + suffix)
        aliases = self._aliases(kind)
        if plain(name) in aliases:
            return aliases[plain(name)]
        raise LookupError(f"unknown {KINDS[kind]} `{name}`{self._meant(kind, name)}")

    def names(self, kind: str) -> list[str]:
        """All names of a kind, sorted."""
        return sorted({path.stem for path in self._files(kind)})

    def profile(self, name: str) -> Profile:
        """A hardware profile. Raises LookupError for an unknown name, SpecError for a bad file."""
        return build(Profile, self.document("hardware_profiles", name), {"library": self})

    def model(self, name: str) -> Model:
        """A model's shapes. Raises as `profile` does."""
        return build(Model, self.document("models", name), {"library": self})

    def site(self, name: str) -> Site:
        """A site. Raises as `profile` does."""
        return build(Site, self.document("sites", name), {"library": self})

    def _meant(self, kind: str, name: str) -> str:
        """What an unknown name could have meant, as an ending of a message: a thing of another kind, a near name, or a file of one's own."""
        for other, what in KINDS.items():
            if name in self.names(other) or plain(name) in self._aliases(other):
                return f"; `{name}` is {'an' if what[0] in 'aeiou' else 'a'} {what}: `{PLACES[other]}`"
        ending = did_you_mean(name, self.names(kind), self._aliases(kind))
        own = "" if "did you mean" in ending else "; for files of your own, `--path FOLDER` names their folder"
        return ending + own

    def _aliases(self, kind: str) -> dict[str, Path]:
        """Plain name or alias -> file, of all devices, models or engines that can be read."""
        if kind not in ALIASED:
            return {}
        if kind not in self._known:
            found = self._known[kind] = {plain(path.stem): path for path in self._files(kind)}
            for path in self._files(kind):
                try:
                    aliases = read(path).data.get("aliases")
                except SpecError:  # a file nobody asked for
                    continue
                for alias in aliases if isinstance(aliases, list) else ():
                    found.setdefault(plain(str(alias)), path)
        return self._known[kind]

    def _files(self, kind: str) -> Iterator[Path]:
        for folder in self._folders(kind):
            paths = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
            yield from (path for path in paths if folder not in self.paths or _looks_like(kind, path))

    def _folders(self, kind: str) -> list[Path]:
        own = [folder for path in self.paths for folder in (path / kind, path) if folder.is_dir()]
        return [*own, *([shipped(kind)] if shipped(kind).is_dir() else [])]


def plain(name: str) -> str:
    """A name without its owner, in lower case, words joined by hyphens: "meta-llama/Llama-3.1-70B" -> "llama-3.1-70b"."""
    return re.sub(r"[^a-z0-9.]+", "-", name.rsplit("/", 1)[-1].lower()).strip("-")


def _looks_like(kind: str, path: Path) -> bool:
    """Whether a file of a folder of all kinds is of this one, by a key that only this kind must have."""
    try:
        data = read(path).data
    except SpecError:  # nobody has asked for it yet
        return False
    return any(key in data for key in TELLTALES[kind])


def shipped(kind: str) -> Path:
    """The folder of shipped documents: in the installed package, or at the top of a checkout."""
    package = Path(str(files("simfleet")))
    if kind not in ("hardware_profiles", "scenarios"):
        return package / "library" / kind
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind
