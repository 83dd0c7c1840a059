// The camera of the 3D preview: its first view, its buttons, and that a changed setting does not move it; and
// whom the wheel and fingers belong to, the preview or the page.
const objectPreview = (() => {
  // In Chrome Babylon would choose WebGPU: one more engine to load, and one whose drawing is not seen below.
  delete window.Navigator?.prototype.gpu;

  const HALF = Math.tan(0.4); // Babylon's viewer shows 0.8 radians from top to bottom
  const MARGIN = 0.94;
  const ANGLES = { front: [90, 90], tilted: [72, 66] };
  let shownObject = "";
  let camera = null; // as it was when the server was asked
  let named = "reset"; // the view on screen, until the visitor turns it
  let active = false; // whether the wheel zooms
  let restored = null; // the camera of an earlier visit

  const canvas = () => document.querySelector("#preview canvas");
  const isDrawn = () => { document.body.dataset.drawn = "yes"; };
  const box = () => document.querySelector("#preview-box");

  function about() {
    const told = document.querySelector("#preview-about [data-about]");
    return told ? JSON.parse(told.dataset.about) : { object: "", size: [1, 1, 1], eye: null };
  }

  function aspect() {
    const place = (canvas() ?? document.querySelector("#preview"))?.getBoundingClientRect();
    return place?.height ? place.width / place.height : 1.4;
  }

  // A picture of the relief stands here until its first triangles are drawn: shaders are compiled before.
  const MANY = 1000;
  const drawing = window.WebGL2RenderingContext?.prototype ?? {}, { drawElements } = drawing;
  drawing.drawElements = function (mode, count, ...others) {
    drawElements.call(this, mode, count, ...others);
    if (count < MANY || this.canvas !== canvas()) return;
    drawing.drawElements = drawElements;
    requestAnimationFrame(isDrawn);
  };

  // How far away the camera must be for a box of this size to be seen whole.
  function radius(size, alpha, beta) {
    const [a, b] = [alpha, beta].map((degrees) => (degrees * Math.PI) / 180);
    const toward = [Math.sin(b) * Math.cos(a), Math.cos(b), Math.sin(b) * Math.sin(a)];
    const right = [Math.sin(a), 0, -Math.cos(a)];
    const up = [-Math.cos(b) * Math.cos(a), Math.sin(b), -Math.cos(b) * Math.sin(a)];
    const along = (direction, corner) => direction.reduce((sum, part, axis) => sum + part * corner[axis], 0);
    const [tall, wide] = [HALF * MARGIN, HALF * MARGIN * aspect()];
    let needed = 0;
    for (let index = 0; index < 8; index++) {
      const corner = size.map((side, axis) => (index & (1 << axis) ? side : -side) / 2);
      const across = Math.abs(along(right, corner)) / wide;
      const down = Math.abs(along(up, corner)) / tall;
      needed = Math.max(needed, along(toward, corner) + Math.max(across, down));
    }
    return needed;
  }

  function position(name) {
    const { size, eye } = about();
    const chosen = name === "reset" ? (eye ? "front" : "tilted") : name;
    const [alpha, beta] = eye && chosen === "tilted" ? [80, 80] : ANGLES[chosen]; // farther round, streaks are seen
    return [alpha, beta, eye ?? radius(size, alpha, beta)];
  }

  // Gradio ignores a position that it knows already, even if the camera has left it.
  let nudge = 0.01;
  function moved([alpha, beta, distance]) {
    nudge = -nudge;
    return { __type__: "update", camera_position: [alpha + nudge, beta, distance] };
  }

  function ask(values) {
    isDrawn(); // or the picture is of another object
    camera = values[0]?.camera_position ?? null;
    values[0] = { value: null, aspect: aspect() };
    return values;
  }

  function shown() {
    const { object } = about();
    if (restored) {
      [camera, shownObject, restored, named] = [restored, object, null, ""];
    }
    const keeps = object === shownObject && camera?.every((part) => typeof part === "number");
    shownObject = object;
    if (!keeps) named = "reset";
    return [moved(keeps ? camera : position("reset"))];
  }

  function view(name, value) {
    named = name;
    if (name !== "reset" || !value?.url) return [moved(position(name))];
    // Loading it again also brings back what was pushed aside.
    const url = value.url.endsWith("?") ? value.url.slice(0, -1) : `${value.url}?`;
    return [{ ...moved(position(name)), value: { ...value, url } }];
  }

  function fullscreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else box()?.requestFullscreen?.();
    return [];
  }

  // A view that was chosen still fits when the canvas gets another shape.
  let fitting;
  const resized = new ResizeObserver(() => {
    clearTimeout(fitting);
    fitting = setTimeout(() => {
      if (named && canvas() && !about().eye) document.querySelector(`#view-${named === "reset" ? "tilted" : named}`)?.click();
    }, 250);
  });
  let watched = null;
  new MutationObserver(() => {
    if (canvas() === watched) return;
    if (watched) resized.unobserve(watched);
    watched = canvas();
    if (watched) resized.observe(watched);
  }).observe(document, { childList: true, subtree: true });

  // The wheel scrolls the page until the preview was clicked, or Ctrl is held; a click elsewhere gives it back.
  document.addEventListener("pointerdown", (event) => {
    active = event.target === canvas() && event.pointerType !== "touch";
    if (event.target === canvas()) named = "";
  }, true);
  document.addEventListener("wheel", (event) => {
    if (event.target === canvas() && !active && !event.ctrlKey) event.stopPropagation();
  }, { capture: true, passive: true });

  // One finger scrolls the page, two turn the object, and their distance brings it nearer.
  const fingers = new Map();
  let spread = 0;
  function touched(event) {
    if (event.pointerType !== "touch" || event.target !== canvas() || !event.isTrusted) return;
    event.stopImmediatePropagation();
    const first = [...fingers.keys()][0];
    if (event.type === "pointerdown") {
      fingers.set(event.pointerId, event);
      spread = 0;
      if (fingers.size === 2) pass("pointerdown", fingers.values().next().value);
      return;
    }
    if (!fingers.has(event.pointerId)) return;
    if (event.type === "pointermove") {
      fingers.set(event.pointerId, event);
      if (fingers.size !== 2) return;
      if (event.pointerId === first) pass("pointermove", event);
      pinch(event.target);
      return;
    }
    if (fingers.size === 2) pass("pointerup", fingers.get(first));
    fingers.delete(event.pointerId);
  }

  // For Babylon one finger is a mouse with its left button.
  function pass(type, { target, clientX, clientY }) {
    const buttons = type === "pointerup" ? 0 : 1;
    const button = type === "pointermove" ? -1 : 0;
    target.dispatchEvent(new PointerEvent(type, {
      bubbles: true, cancelable: true, pointerId: 1, pointerType: "mouse", isPrimary: true, clientX, clientY, button, buttons,
    }));
  }

  function pinch(target) {
    const [one, two] = fingers.values();
    const now = Math.hypot(one.clientX - two.clientX, one.clientY - two.clientY);
    if (spread) target.dispatchEvent(new WheelEvent("wheel", { bubbles: true, cancelable: true, ctrlKey: true, deltaY: (spread - now) * 3 }));
    spread = now;
  }
  for (const type of ["pointerdown", "pointermove", "pointerup", "pointercancel"])
    window.addEventListener(type, touched, { capture: true });
  document.addEventListener("touchmove", (event) => {
    if (event.target === canvas() && event.touches.length > 1 && event.cancelable) event.preventDefault();
  }, { capture: true, passive: false });

  // The object that is shown next is seen as it was left.
  function restore(position) {
    isDrawn();
    restored = position;
  }

  return { ask, shown, view, fullscreen, restore };
})();
