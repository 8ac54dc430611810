"""The condition of the place: the machine, the disk and who fills it, versions. Slow to look at; changes nothing."""

import shutil
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from tunewise import __version__
from tunewise.contracts.jobs import Caller
from tunewise.jobs.access import require_admin
from tunewise.jobs.inventory import size_of
from tunewise.jobs.platform import Platform
from tunewise.machine import Machine, this_machine
from tunewise.settings import installed_versions

Kind: TypeAlias = Literal["files", "uploads", "runs", "models", "cache", "database"]
PACKAGES = ("torch", "transformers", "peft", "nicegui", "fastapi", "sqlalchemy")
# Below either, a training's next checkpoint may be what no longer fits.
SCARCE_SHARE, SCARCE_BYTES = 0.03, 2 * 1024**3


class Disk(NamedTuple):
    """The disk of the state directory, in bytes."""

    total: int
    free: int

    @property
    def is_scarce(self) -> bool:
        """Whether it is nearly full."""
        return self.free < max(SCARCE_BYTES, self.total * SCARCE_SHARE)


class Storage(NamedTuple):
    """Bytes by kind, and the disk that they lie on. `models`: base models, shared by all states of this machine."""

    kinds: dict[Kind, int]
    disk: Disk


def machine(_platform: Platform, _caller: Caller) -> Machine:
    """What the server runs on."""
    return this_machine()


def disk(platform: Platform) -> Disk:
    """How full it is."""
    usage = shutil.disk_usage(platform.settings.state_dir)
    return Disk(usage.total, usage.free)


def storage(platform: Platform, caller: Caller) -> Storage:
    """What the state and the caches take; it walks over every file.

    Raises:
        RequestError: admin_required.
    """
    require_admin(caller, "Looking at storage")
    settings = platform.settings
    places: dict[Kind, Path] = {
        "files": platform.files_dir,
        "uploads": platform.uploads_dir,
        "runs": platform.runs_dir,
        "models": settings.models_dir,
        "cache": settings.cache_dir,
    }
    kinds = {kind: size_of(place) for kind, place in places.items()}
    kinds["database"] = sum(path.stat().st_size for path in settings.state_dir.glob("tunewise.db*"))
    return Storage(kinds, disk(platform))


def versions(_platform: Platform, _caller: Caller) -> dict[str, str]:
    """Of Tunewise, Python and the packages that results depend on."""
    return {"tunewise": __version__} | installed_versions(*PACKAGES)
