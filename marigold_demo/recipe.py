"""A recipe: the settings and versions that a file was made with, as JSON.

3MF, PNG and GLB files carry one, so that a file can be made again from itself and its photo.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Any

from marigold_demo import __version__
from marigold_demo.errors import SettingsError
from marigold_demo.settings import DepthSettings, MeshSettings, ReliefSettings

KEY = "marigold-demo-recipe"  # under which files keep it
NEAR_KEY = "marigold-demo-near"  # text beside it in a PNG of depth: "white" where that was inverted
LIBRARIES = ("torch", "diffusers", "numpy", "scipy", "pillow")  # whose versions may change a result
_PARTS = {"depth": DepthSettings, "relief": ReliefSettings, "mesh": MeshSettings}
_WORDS = ("version", "photo", "revision", "device")


@cache
def libraries() -> Mapping[str, str]:
    """Return the versions of the libraries that are installed here."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return MappingProxyType(found)


@dataclass(frozen=True)
class Recipe:
    """Everything but the photo.

    Attributes:
        version: Of the program that made the file.
        libraries: Versions of the libraries it used.
        photo: Digest of the photo (`Photo.digest`), where there was one.
        revision: Of the checkpoint: the hub's commit or a digest of its weights (`DepthMap.revision`).
        device: What computed the depth (`DepthMap.device`).
        depth: How the photo became depth; None where depth was brought.
        relief: How depth became a relief.
        mesh: How depth became a surface.
    """

    version: str = __version__
    libraries: Mapping[str, str] = field(default_factory=libraries, hash=False)
    photo: str | None = None
    revision: str | None = None
    device: str | None = None
    depth: DepthSettings | None = None
    relief: ReliefSettings | None = None
    mesh: MeshSettings | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, without what is unset."""
        parts = {name: asdict(part) for name in _PARTS if (part := getattr(self, name)) is not None}
        words = {name: word for name in _WORDS if (word := getattr(self, name)) is not None}
        return words | {"libraries": dict(self.libraries)} | parts

    def to_json(self) -> str:
        """Return one line of ASCII."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    def compatibility_warnings(
        self, *, photo: str | None = None, revision: str | None = None, device: str | None = None
    ) -> list[str]:
        """Return, in sentences, why a result made here may differ from the one that carries this recipe.

        Args:
            photo: Digest of the photo that is at hand.
            revision: Of the checkpoint that is at hand.
            device: What computed the depth that is at hand.
        """
        found = []
        if photo and self.photo and photo != self.photo:
            found.append("The recipe was made for another photo.")
        if revision and self.revision and revision != self.revision:
            found.append(
                f"The recipe's checkpoint was at revision {self.revision[:12]}, the one here is at"
                f" {revision[:12]}; the depth may differ."
            )
        if device and self.device and device != self.device:
            found.append(
                f"The recipe's depth is from {self.device}, the one here from {device}; its bytes may differ."
            )
        mine = {"Marigold Demo": __version__, **libraries()}
        theirs = {"Marigold Demo": self.version, **self.libraries}
        others = [
            f"{name} {theirs[name][:20]}" for name in mine if theirs.get(name, mine[name]) != mine[name]
        ]
        if others:
            found.append(f"The recipe was made with {', '.join(others)}; what is here may give other bytes.")
        return found


def recipe_from_json(text: str) -> Recipe:
    """Read a recipe back.

    Raises:
        SettingsError: It is no recipe, or not one for this version.
    """
    try:
        found = json.loads(text)
        parts = {name: kind(**found.pop(name)) for name, kind in _PARTS.items() if name in found}
        used = found.pop("libraries", {})
        strange = [name for name, word in {**used, **found}.items() if not isinstance(word, str)]
        if strange:
            raise ValueError("A word is no text.")
        return Recipe(libraries=MappingProxyType(used), **found, **parts)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SettingsError(f"This is no recipe that version {__version__} can read.") from error
