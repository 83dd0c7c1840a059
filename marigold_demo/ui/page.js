// What Gradio's widgets lack: keyboard and labels for the compare slider, scrolling over it, points on it, and
// events of sliders that are moved with a key.
(() => {
  const HANDLE = '#compare [data-testid="slider"]';
  const IMAGES = '#compare [data-testid="imageslider-image"]';
  const KEYS = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };

  // Where the picture is inside its box, which may be wider.
  function pictureOf(image) {
    const box = image.getBoundingClientRect();
    const scale = Math.min(box.width / (image.naturalWidth || 1), box.height / (image.naturalHeight || 1));
    const width = (image.naturalWidth || 1) * scale;
    const height = (image.naturalHeight || 1) * scale;
    return { left: box.left + (box.width - width) / 2, top: box.top + (box.height - height) / 2, width, height };
  }

  function centerOf(handle) {
    const box = handle.getBoundingClientRect();
    return { x: box.left + box.width / 2, y: box.top + box.height / 2 };
  }

  function shareOf(handle) {
    const image = document.querySelector(IMAGES);
    if (!image) return 50;
    const picture = pictureOf(image);
    if (!picture.width) return 50;
    return Math.max(0, Math.min(100, (100 * (centerOf(handle).x - picture.left)) / picture.width));
  }

  function moveTo(handle, share) {
    const picture = pictureOf(document.querySelector(IMAGES));
    const from = centerOf(handle);
    const to = picture.left + (picture.width * share) / 100;
    const at = (x) => ({ view: window, bubbles: true, cancelable: true, button: 0, clientX: x, clientY: from.y });
    handle.dispatchEvent(new MouseEvent("mousedown", at(from.x)));
    window.dispatchEvent(new MouseEvent("mousemove", at(to)));
    window.dispatchEvent(new MouseEvent("mouseup", at(to)));
  }

  function announce(handle) {
    const share = String(Math.round(shareOf(handle)));
    if (handle.getAttribute("aria-valuenow") !== share) handle.setAttribute("aria-valuenow", share);
  }

  function makeSlider(handle) {
    handle.dataset.equipped = "yes";
    handle.tabIndex = 0;
    for (const [name, value] of Object.entries({
      role: "slider", "aria-label": "Divider between the two pictures", "aria-orientation": "horizontal",
      "aria-valuemin": "0", "aria-valuemax": "100",
    })) handle.setAttribute(name, value);
    handle.addEventListener("keydown", (event) => {
      if (!(event.key in KEYS)) return;
      event.preventDefault();
      moveTo(handle, Math.max(0, Math.min(100, shareOf(handle) + KEYS[event.key])));
      requestAnimationFrame(() => announce(handle));
    });
    new MutationObserver(() => announce(handle)).observe(handle, { attributes: true, attributeFilter: ["style"] });
    announce(handle);
  }

  function labelComparison() {
    for (const handle of document.querySelectorAll(`${HANDLE}:not([data-equipped])`)) makeSlider(handle);
    document.querySelectorAll(IMAGES).forEach((image, side) => {
      const said = document.querySelectorAll("#legend [data-side]")[side]?.textContent;
      const alt = (side === 0 ? "Left picture" : "Right picture") + (said ? `: ${said}` : "");
      if (image.alt !== alt) {
        image.alt = alt;
        image.addEventListener("load", () => document.querySelectorAll(HANDLE).forEach(announce));
      }
      if (image.loading !== "eager") image.loading = "eager"; // or it waits until it is scrolled to
    });
  }

  // A drag that begins on the picture ends with a click, too, which is none.
  const STILL_PX = 6;
  let pressed = { x: 0, y: 0 };
  document.addEventListener("pointerdown", (event) => { pressed = { x: event.clientX, y: event.clientY }; }, true);

  // Dots stay at their places of the picture when that becomes smaller.
  function placeDots() {
    const image = document.querySelector(IMAGES);
    if (!image) return;
    const picture = pictureOf(image);
    for (const dot of document.querySelectorAll("#compare .dot")) {
      const box = dot.parentElement.getBoundingClientRect();
      dot.style.left = `${picture.left - box.left + dot.dataset.x * picture.width}px`;
      dot.style.top = `${picture.top - box.top + dot.dataset.y * picture.height}px`;
    }
  }
  const resized = new ResizeObserver(() => requestAnimationFrame(placeDots));

  // A click on the picture asks the server for the depth there; two dots show the two points that are compared.
  document.addEventListener("click", (event) => {
    if (event.detail && Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > STILL_PX) return;
    const wrap = event.target.closest?.("#compare .slider-wrap");
    const asked = document.querySelector("#point textarea, #point input");
    const image = document.querySelector(IMAGES);
    if (!wrap || !asked || !image || event.target.closest(`${HANDLE}, button`)) return;
    const picture = pictureOf(image);
    const x = (event.clientX - picture.left) / picture.width;
    const y = (event.clientY - picture.top) / picture.height;
    if (x < 0 || x > 1 || y < 0 || y > 1) return;
    const dots = document.querySelectorAll("#compare .dot");
    if (dots.length > 1) dots.forEach((dot) => dot.remove());
    const dot = document.createElement("i");
    dot.className = "dot";
    dot.textContent = dots.length === 1 ? "2" : "1";
    [dot.dataset.x, dot.dataset.y] = [x, y];
    wrap.append(dot);
    placeDots();
    resized.observe(wrap);
    asked.value = `${x.toFixed(4)} ${y.toFixed(4)} ${dot.textContent}`;
    asked.dispatchEvent(new Event("input", { bubbles: true }));
  });

  // Gradio calls the buttons that set a slider back all the same.
  function labelResets() {
    for (const button of document.querySelectorAll("#settings .reset-button:not([data-named])")) {
      const field = button.closest(".block")?.querySelector('[data-testid="block-info"]')?.textContent.trim();
      if (!field) continue;
      button.dataset.named = "yes";
      button.title = `Set “${field}” back`;
      button.setAttribute("aria-label", button.title);
    }
  }

  // Gradio names empty boxes without saying what they are, and calls the head of a toast, which holds a button, a button.
  function fixRoles() {
    for (const box of document.querySelectorAll('div[aria-label="Empty value"]:not([role])')) box.setAttribute("role", "img");
    for (const head of document.querySelectorAll('.toast-header[role="button"]')) head.setAttribute("role", "group");
  }

  function labelPreview() {
    const canvas = document.querySelector("#preview canvas");
    if (!canvas || canvas.tabIndex === 0) return;
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "3D preview; drag to turn, click and scroll to zoom");
  }

  // Gradio's slider takes one-finger swipes and the wheel; outside its handle they scroll the page here.
  function leaveToPage(event) {
    const inside = event.target.closest?.("#compare");
    if (!inside || event.target.closest(HANDLE) || event.ctrlKey) return;
    if (event.type === "wheel" || event.touches.length === 1) event.stopPropagation();
  }
  document.addEventListener("touchstart", leaveToPage, { capture: true, passive: true });
  document.addEventListener("wheel", leaveToPage, { capture: true, passive: true });

  // A field that is left unchanged, on the way with Tab, sends no event.
  const FIELDS = '.block input:is([type="number"], [type="text"]):not([role])';
  document.addEventListener("focus", (event) => {
    if (event.target.matches?.(FIELDS)) event.target.dataset.before = event.target.value;
  }, true);
  document.addEventListener("blur", (event) => {
    const field = event.target;
    if (!field.matches?.(FIELDS)) return;
    if (field.dataset.before === field.value) event.stopPropagation();
    else field.dataset.before = field.value;
  }, true);

  // Gradio's dropdowns report a choice of the pointer, and again when they lose the focus, as they do where nothing
  // was chosen; Enter chooses by losing the focus. Tab leaves their list open.
  const DROPDOWN = 'input[role="combobox"]';
  let isReported = false;
  let isEntered = false;
  const close = (dropdown) => {
    if (dropdown.getAttribute("aria-expanded") === "true")
      dropdown.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape", bubbles: true }));
  };
  document.addEventListener("mousedown", (event) => { isReported = !!event.target.closest?.('[role="option"]'); }, true);
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches?.(DROPDOWN)) return;
    isEntered = event.key === "Enter";
    if (event.key === "Tab") close(event.target);
  }, true);
  document.addEventListener("focus", (event) => {
    if (event.target.matches?.(DROPDOWN)) event.target.dataset.before = event.target.value;
  }, true);
  document.addEventListener("blur", (event) => {
    const dropdown = event.target;
    if (!dropdown.matches?.(DROPDOWN)) return;
    const isNews = isEntered || (!isReported && dropdown.value !== dropdown.dataset.before);
    isReported = isEntered = false;
    if (isNews) return;
    event.stopPropagation();
    close(dropdown);
  }, true);

  // Gradio's sliders take a typed number only when the field is left, and report a release of the pointer only.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.matches?.('.block:has(input[type="range"]) input[type="number"]'))
      event.target.dispatchEvent(new FocusEvent("blur"));
  });
  let settling;
  document.addEventListener("keyup", (event) => {
    const slider = event.target;
    if (!slider.matches?.('input[type="range"]') || !(event.key in KEYS)) return;
    clearTimeout(settling);
    settling = setTimeout(() => slider.dispatchEvent(new PointerEvent("pointerup", { bubbles: true })), 250);
  });

  // A thumb that scrolls the page over a slider has moved it before the browser knows that it scrolls.
  let touched = null;
  document.addEventListener("pointerdown", (event) => {
    const slider = event.target.closest?.('input[type="range"]');
    touched = slider && event.pointerType !== "mouse" ? { slider, value: slider.value } : null;
  }, true);
  document.addEventListener("pointercancel", (event) => {
    if (!touched || event.target !== touched.slider) return;
    const { slider, value } = touched;
    touched = null;
    const putBack = () => {
      if (slider.value === value) return;
      slider.value = value;
      slider.dispatchEvent(new Event("input", { bubbles: true }));
    };
    putBack();
    setTimeout(putBack, 100); // the browser may move it once more
  }, true);

  // Gradio loads the code of its 3D viewer after the canvas is there; where the canvas was taken away meanwhile,
  // the viewer complains that it is null. Nothing is lost: there is nothing to show any more.
  window.addEventListener("unhandledrejection", (event) => {
    const words = `${event.reason?.message} ${event.reason?.stack}`;
    if (/of null/.test(words) && /Canvas3D|postProcessManager/.test(words)) event.preventDefault();
  });

  new MutationObserver(() => { labelComparison(); labelResets(); fixRoles(); labelPreview(); }).observe(document, { childList: true, subtree: true });
})();
