"""Find profiles, models, sites, workloads and scenarios by name: the user's own folders first, then the shipped ones."""

import os
from importlib.resources import files
from pathlib import Path

from simfleet.facility.site import Site
from simfleet.hardware.profile import Profile
from simfleet.spec import Document, Mark, Problem, SpecError, build, did_you_mean, read
from simfleet.workload.models import Model

KINDS = {"hardware_profiles": "hardware profile", "models": "model", "sites": "site", "workloads": "workload preset", "scenarios": "scenario"}


class Library:
    """Documents by kind (see KINDS) and name.

    Looked up in `paths` (`--path`), then in the folders of the environment variable SIMFLEET_PATH, then among those shipped. A
    folder may hold the YAML files themselves or subfolders named like the kinds. Raises SpecError for a folder that is not there.
    """

    def __init__(self, paths: tuple[Path, ...] = ()) -> None:
        environment = [Path(part) for part in os.environ.get("SIMFLEET_PATH", "").split(os.pathsep) if part]
        self._own = [*paths, *environment]
        problems = [Problem(Mark(str(path)), "", "no such folder") for path in self._own if not path.is_dir()]
        if problems:
            raise SpecError(problems)
        self._documents: dict[Path, Document] = {}

    def document(self, kind: str, name: str, folder: Path = Path()) -> Document:
        """The document `name`; a path (with / or .yaml) is taken from `folder`. Raises LookupError, saying what is near."""
        path = folder / name if "/" in name or name.endswith((".yaml", ".yml")) else self.path(kind, name)
        if path not in self._documents:
            self._documents[path] = read(path)
        return self._documents[path]

    def path(self, kind: str, name: str) -> Path:
        """The file of a name, or of a hardware profile's alias. Raises LookupError."""
        for folder in self._folders(kind):
            if (folder / f"{name}.yaml").is_file():
                return folder / f"{name}.yaml"
        if kind == "hardware_profiles":
            for path in self._files(kind):
                if name in read(path).data.get("aliases", ()):
                    return path
        raise LookupError(f"unknown {KINDS[kind]} `{name}`{did_you_mean(name, self.names(kind))}")

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

    def _files(self, kind: str) -> list[Path]:
        return [path for folder in self._folders(kind) for path in sorted(folder.glob("*.yaml"))]

    def _folders(self, kind: str) -> list[Path]:
        own = [folder for path in self._own for folder in (path / kind, path) if folder.is_dir()]
        return [*own, shipped(kind)]


def shipped(kind: str) -> Path:
    """The folder of shipped documents: in the installed package, or at the top of a checkout."""
    package = Path(str(files("simfleet")))
    if kind not in ("hardware_profiles", "scenarios"):
        return package / "library" / kind
    inside = package / kind
    return inside if inside.is_dir() else package.parent / kind
