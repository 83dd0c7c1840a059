// The layout of the page where style sheets do not suffice: the menu of files, the two views of a narrow screen,
// the kind of object that is chosen, the veil while an object is rebuilt, and what is wrong with a setting.
(() => {
  const VEIL_MS = 200, DRAG_MS = 1500; // the veil comes after; a picture of a drag stays at most so long
  const workbench = (window.workbench = {});
  const find = (selector) => document.querySelector(selector);

  // The menu of files is a popover: Escape and a click beside it close it.
  function makeMenu() {
    const menu = find("#file-menu"), button = find("#more-files");
    if (!menu || !button || menu.popover) return;
    menu.popover = "auto";
    menu.setAttribute("role", "group");
    menu.setAttribute("aria-label", "Files");
    button.popoverTargetElement = menu;
    button.setAttribute("aria-label", "More files");
  }

  // Which kind of object the bar offers: that of the last tab of relief or mesh that was open.
  function followTabs() {
    for (const kind of ["relief", "mesh"]) {
      const chosen = find(`#${kind}-tab-button`)?.getAttribute("aria-selected") === "true";
      if (chosen && document.body.dataset.shape !== kind) document.body.dataset.shape = kind;
    }
  }

  function show(view) {
    document.body.dataset.view = view;
    for (const button of document.querySelectorAll("#views button"))
      button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }

  // Gradio takes two clicks at once for two events, before its first one is under way.
  let packed_ms = -Infinity;
  document.addEventListener(
    "click",
    (event) => {
      if (!event.target.closest?.("#everything")) return;
      if (performance.now() - packed_ms < 1000) event.stopImmediatePropagation();
      else packed_ms = performance.now();
    },
    true,
  );

  document.addEventListener("click", (event) => {
    const at = (selector) => event.target.closest?.(selector);
    if (at("#views button")) show(at("#views button").dataset.view);
    if (at("#examples button")) document.body.dataset.begun = "yes";
    if (at("#model")) {
      find("#depth-tab-button")?.click();
      requestAnimationFrame(() => find("#depth-checkpoint input")?.focus());
    }
    if (at("[data-press]")) find(at("[data-press]").dataset.press)?.click();
    if (at("[data-copy]")) copy(at("[data-copy]"));
    if (at("#file-menu button:not(#everything)")) find("#file-menu").hidePopover?.();
  });

  // Where the clipboard is out of reach, the text is marked, so that Ctrl+C copies it.
  async function copy(button) {
    const text = find(button.dataset.copy);
    getSelection().selectAllChildren(text);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Marked: press Ctrl+C";
    }
  }

  // A style that is marked already is set again when it is chosen, which changes nothing in the radio itself.
  let marked;
  for (const kind of ["pointerdown", "keydown"])
    document.addEventListener(kind, () => { marked = find("#preset input:checked")?.value; }, true);
  document.addEventListener("click", (event) => {
    if (event.target.matches?.("#preset input") && event.target.value === marked && find("#style-note")?.textContent.trim())
      find("#style-again")?.click();
  });

  // The headline goes as soon as another photo than the first is there.
  let firstName;
  function noticePhoto() {
    const name = find("#file-name span[title]")?.textContent;
    if (!name) return;
    firstName ??= name;
    if (name !== firstName) document.body.dataset.begun = "yes";
  }

  // An object is rebuilt: its files cannot be fetched, and after a moment a veil says why it looks as before.
  let veil;
  workbench.busy = () => {
    clearTimeout(veil);
    veil = setTimeout(() => find("#object-pane")?.setAttribute("data-busy", "Updating"), VEIL_MS);
    for (const part of ["#downloads", "#file-menu"]) find(part)?.setAttribute("inert", "");
  };
  workbench.done = () => {
    clearTimeout(veil);
    find("#object-pane")?.removeAttribute("data-busy");
    for (const part of ["#downloads", "#file-menu"]) find(part)?.removeAttribute("inert");
    delete document.body.dataset.dragging;
  };

  // While a slider of the relief is dragged, a small picture of it lies over the 3D preview.
  const isDragged = (event) => event.target.matches?.('#settings .essentials input[type="range"]');
  document.addEventListener("input", (event) => {
    if (isDragged(event) && event.target.matches(":active")) document.body.dataset.dragging = "yes";
  });
  document.addEventListener("pointerup", (event) => {
    if (isDragged(event)) setTimeout(() => delete document.body.dataset.dragging, DRAG_MS);
  });

  // What is wrong with a setting stands under its field, or first of all where it is about none.
  function placeRefusal() {
    const told = find("#refused [data-field]");
    const words = told?.textContent ?? "", field = told?.dataset.field ?? "";
    const shown = find("#settings .refused");
    if (shown?.textContent === words && shown?.dataset.of === field) return;
    shown?.remove();
    for (const input of document.querySelectorAll("#settings [aria-invalid]")) {
      input.removeAttribute("aria-invalid");
      input.removeAttribute("aria-describedby");
    }
    if (!words) return;
    const box = document.getElementById(field);
    const line = Object.assign(document.createElement("p"), { className: "refused", id: "refused-words", textContent: words });
    line.dataset.of = field;
    line.setAttribute("role", "alert");
    (box ?? find("#settings .tab-wrapper"))?.append(line);
    const typed = box?.querySelector('input[type="number"]');
    if (typed && told.dataset.value) typed.value = told.dataset.value; // Gradio has put its nearest limit there
    for (const input of box?.querySelectorAll("input") ?? []) {
      input.setAttribute("aria-invalid", "true");
      input.setAttribute("aria-describedby", line.id);
    }
  }

  // What Gradio says in a corner of the screen is said in the status line; the corner is out of sight.
  const LOST = "The connection is lost. The page comes back with everything as soon as the server answers.";
  let lastSaid;
  function sayInOnePlace() {
    const said = [...document.querySelectorAll('[data-testid="toast-body"] [data-testid="toast-text"]')].at(-1);
    const line = find("#status .status");
    if (!said || said === lastSaid || !line) return;
    lastSaid = said;
    line.className = "status alert";
    const words = said.textContent.trim();
    const span = document.createElement("span");
    span.textContent = words.startsWith("Connection to the server was lost") ? LOST : words;
    line.replaceChildren(span);
  }

  // The help of the settings in sight is a tooltip.
  function explain() {
    for (const label of document.querySelectorAll("#settings .essentials label:not([title]):has(.info-text)"))
      label.title = label.querySelector(".info-text").textContent;
  }

  const update = () => { makeMenu(); followTabs(); noticePhoto(); placeRefusal(); sayInOnePlace(); explain(); };
  new MutationObserver(update).observe(document, {
    childList: true, subtree: true, attributes: true, attributeFilter: ["aria-selected"],
  });
})();
