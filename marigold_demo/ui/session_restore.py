"""A visitor's work outlives the page: a reload, a lost connection, a closed tab. A link opens it elsewhere.

The browser keeps a random key and the settings. The key stands for a photo and a depth in the session store,
for as long as these are there; whoever has it gets keys of their own to them, so it can change nothing. A
link has a key of its own, with the settings at the moment it was made.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import gradio as gr
from gradio.events import Dependency

from marigold_demo.errors import DemoError
from marigold_demo.settings import ReliefSettings, Settings
from marigold_demo.ui import widgets
from marigold_demo.ui.layers import LAYERS, DepthStyle
from marigold_demo.ui.messages import duration, status, user_errors
from marigold_demo.ui.opening import Opening
from marigold_demo.ui.photo_tab import NEAR, Outputs, PhotoTab
from marigold_demo.ui.session_store import SessionStore, new_request
from marigold_demo.ui.widgets import ONCE, QUIET, RAW, WORK

if TYPE_CHECKING:
    from marigold_demo.ui.depth_tab import DepthTab
    from marigold_demo.ui.object_tab import ObjectTab

S = TypeVar("S", bound=Settings)
STORAGE_KEY = "marigold-demo"  # ways_in.js removes it when a visitor starts over
# Gradio sends it to every visitor, so it hides nothing; it must be the same after a restart.
_SECRET = "marigold-demo"
_COPY = "(key) => waysIn.copyLink(key)"
START_OVER = ("start-over", "Start over")


class SessionRestore:
    """Restores a visitor's photo, depth, object and settings, and makes links to them."""

    def __init__(
        self,
        store: SessionStore,
        photo: PhotoTab,
        depth: "DepthTab",
        objects: "ObjectTab",
        opening: Opening | None,
    ) -> None:
        self.store, self.photo, self.depth, self.objects, self.opening = store, photo, depth, objects, opening
        self.kept = gr.BrowserState(None, storage_key=STORAGE_KEY, secret=_SECRET)
        self.ticket = gr.Textbox(visible="hidden", elem_id="ticket")  # what the browser is to keep, as JSON
        self.link_key = gr.Textbox(visible="hidden", elem_id="link-key")
        self.turned = gr.Textbox(visible="hidden", elem_id="turned")  # the visitor has turned the object
        self.asked = gr.State(None)  # what is to be restored
        self.reopened = gr.State(None)  # a depth was restored when it changes
        self.kinds = objects.tabs["relief"].parent  # Gradio forgets it once the page is built
        self.fields = {
            **{f"depth.{name}": field for name, field in photo.fields.items()},
            **{f"relief.{name}": field for name, field in objects.relief.fields.items()},
            **{f"mesh.{name}": field for name, field in objects.mesh.fields.items()},
            **dict(zip((f"style.{name}" for name in asdict(DepthStyle())), depth.style, strict=True)),
            "left": depth.left,
            "right": depth.right,
            "at_once": photo.at_once,
            "near": photo.near,
            "inverse": photo.inverse,
            "frame": photo.frame,
        }

    def connect(self, page: gr.Blocks) -> list[Dependency]:
        """Restore when the page is loaded, keep what changes, and make links; return the first events."""
        photo, depth, objects = self.photo, self.depth, self.objects
        keys, fields = [photo.key, depth.key, objects.chosen], list(self.fields.values())
        names = json.dumps(list(self.fields))
        gr.on(
            [photo.key.change, depth.key.change, depth.compare.found.change, objects.chosen.change],
            user_errors(self.keep),
            keys,
            [self.ticket, photo.link],
            **WORK,
        )
        gr.on(
            [self.ticket.change, *(field.change for field in fields)],
            None,
            [self.kept, self.ticket, *fields],
            [self.kept],
            js=f"(...values) => waysIn.keep({names}, values)",
            **QUIET,
        )
        pictures = [photo.drop, photo.name, photo.notes, *depth.pictures, depth.stage, self.kinds]
        # Gradio's page updates every component that an event ever filled at each event that follows. So the
        # page fills all of them only where there is something to restore.
        begun = page.load(
            self.begin,
            [self.kept],
            [self.asked, photo.key, depth.key, self.reopened],
            js="(kept) => waysIn.recall(kept)",
            **WORK,
            **RAW,
        )
        restored = self.asked.change(
            user_errors(self.restore),
            [self.asked],
            list(
                dict.fromkeys(
                    [
                        *keys,
                        photo.request,
                        *pictures,
                        *photo.run_outputs,
                        self.reopened,
                        objects.preset,
                        *fields,
                    ]
                )
            ),
            **WORK,
            **RAW,
        )
        turned = self.turned.change(
            self.see_camera, [objects.preview], None, js="(view) => waysIn.turned(view)", queue=False, **QUIET
        )
        turned.success(None, [self.kept], [self.kept], js="(kept) => waysIn.keepCamera(kept)", **QUIET)
        depth.follow(self.reopened.change(lambda: None, None, None, **WORK))
        made = photo.link.click(
            user_errors(self.make_link), [*keys, *fields], [self.link_key], **WORK | ONCE, **RAW
        )
        made.success(None, [self.link_key], None, js=_COPY, **QUIET)
        return [begun, restored]

    # Handlers: what they return is component -> value; components that are not named stay as they are.

    def keep(self, photo_key: str | None, depth_key: str | None, kind: str) -> Outputs:
        """Give the browser a key for what is on the page now; nothing, where the page is empty."""
        ticket = ""
        if photo_key and depth_key and self._is_of_another(photo_key, depth_key):
            depth_key = None  # that of a photo before, which stays on the screen until a run ends
        if photo_key or depth_key:
            key = self.store.remember(photo_key, depth_key)
            own, is_opening = not self.store.is_shared(depth_key or photo_key), self._is_opening(depth_key)
            ticket = json.dumps({"key": key, "kind": kind, "own": own, "opening": is_opening})
        return {self.ticket: ticket, self.photo.link: gr.Button(visible=bool(depth_key))}

    def see_camera(self, view: gr.Model3D) -> None:
        """Do nothing: Gradio tells ways_in.js the camera because of the annotation."""

    def _is_of_another(self, photo_key: str, depth_key: str) -> bool:
        """Return whether a predicted depth belongs to another photo."""
        result = self.store.result(depth_key)
        return result.settings is not None and result.photo is not self.store.photo(photo_key)

    def _is_opening(self, key: str | None) -> bool:
        return bool(key) and self.opening is not None and self.store.result(key) is self.opening.result

    def make_link(self, photo_key: str | None, depth_key: str | None, kind: str, *values: Any) -> Outputs:
        """Return the key of a link to what is on the page.

        Raises:
            DemoError: There is no depth, or it is gone.
        """
        self.store.result(depth_key)
        depth_key = self.store.branch_result(depth_key)  # as it is now
        settings = {"kind": kind, "settings": dict(zip(self.fields, values, strict=True))}
        return {self.link_key: self.store.remember(photo_key, depth_key, settings=settings)}

    def begin(self, asked: object) -> Outputs:
        """Note what is asked of `restore`; a new visitor gets the first example."""
        return {self.asked: asked} if isinstance(asked, dict) else self._begin()

    def restore(self, asked: object) -> Outputs:
        """Show again what the browser has a key for, or what a link leads to; else the first example.

        Args:
            asked: From ways_in.js: "key", "kind", "settings", and "from": this "tab", an earlier one
                ("browser"), or a "link".
        """
        told = asked if isinstance(asked, dict) else {}
        source, key = told.get("from"), told.get("key")
        found = self.store.recall(key, shared=source == "link") if isinstance(key, str) else None
        if found is None:
            is_told = source in ("link", "tab")
            return self._begin() | (self._gone(is_link=source == "link") if is_told else {})
        if source == "link":
            told = dict(found.settings)
        kind = told.get("kind") if told.get("kind") in self.objects.shapes else "relief"
        shown = self._fields(told.get("settings"))
        shown |= {self.objects.chosen: kind, self.kinds: gr.Tabs(selected=kind)}
        words = "Opened from a link." if source == "link" else "Welcome back."
        shown |= self.photo.run_state(ready=found.photo_key is not None, words=None)
        shown[self.photo.status] = status(words, action=START_OVER)
        if found.photo_key:
            shown |= self.photo.show(self.store.photo(found.photo_key)) | {self.photo.key: found.photo_key}
        if found.depth_key:
            style = DepthStyle(*(shown.get(field, field.value) for field in self.depth.style))
            sides = [shown.get(side, side.value) for side in (self.depth.left, self.depth.right)]
            result = self.store.result(found.depth_key)
            shown |= self.depth.show(result, sides, style) | {self.depth.key: found.depth_key}
            shown |= {self.depth.stage: gr.Column(visible=True), self.reopened: new_request()}
        elif shown.get(self.photo.at_once, True):
            shown[self.photo.request] = new_request()
        return shown

    def _begin(self) -> Outputs:
        """Give a new visitor keys of the photo and the depth that the page begins with."""
        if self.opening is None:
            return {self.reopened: None}
        keys = self.store.add_example(self.opening.result)
        return dict(zip((self.photo.key, self.depth.key), keys, strict=True))

    def _gone(self, *, is_link: bool) -> Outputs:
        kept = duration(self.store.ttl_s) if self.store.ttl_s < 7200 else f"{self.store.ttl_s / 3600:g} hours"
        what = "This link leads nowhere" if is_link else "Your photo is no longer on this server"
        words = f"{what}: results are kept for {kept} after their last use. Choose a photo to begin."
        return {self.photo.status: status(words, alert=True)}

    def _fields(self, kept: object) -> Outputs:
        """Return what the fields show for kept settings; groups that do not fit stay as they are."""
        values: Mapping[str, Any] = kept if isinstance(kept, dict) else {}
        shown: Outputs = {}
        for group, kind, fields in (
            ("depth", type(self.photo.defaults), self.photo.fields),
            ("relief", self.objects.relief.kind, self.objects.relief.fields),
            ("mesh", self.objects.mesh.kind, self.objects.mesh.fields),
        ):
            settings = _read(kind, {name: values.get(f"{group}.{name}") for name in fields})
            if settings is not None:
                shown |= dict(zip(fields.values(), widgets.shown(settings, list(fields)), strict=True))
            if isinstance(settings, ReliefSettings):
                shown[self.objects.preset] = self.objects.style_of(settings)
        style = _read(DepthStyle, {name: values.get(f"style.{name}") for name in asdict(DepthStyle())})
        if style is not None:
            shown |= dict(zip(self.depth.style, asdict(style).values(), strict=True))
        sides = {self.depth.left: values.get("left"), self.depth.right: values.get("right")}
        shown |= {field: side for field, side in sides.items() if side in LAYERS}
        if "at_once" in values:
            shown[self.photo.at_once] = bool(values["at_once"])
            shown[self.photo.inverse] = bool(values.get("inverse"))
            shown[self.photo.frame] = str(values.get("frame") or "")[:9]
        if values.get("near") in NEAR:
            shown[self.photo.near] = values["near"]
        return shown


def _read(kind: type[S], values: Mapping[str, Any]) -> S | None:
    """Return settings of kept values, or None where they do not fit."""
    try:
        return widgets.read(kind, values)
    except (DemoError, TypeError, ValueError):
        return None
