// The layout of the page where style sheets do not suffice: the menu of files, the two views of a narrow screen,
// the kind of object that is chosen, and the way from the bar to the choice of a model.
(() => {
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

  document.addEventListener("click", (event) => {
    const at = (selector) => event.target.closest?.(selector);
    if (at("#views button")) show(at("#views button").dataset.view);
    if (at("#examples button")) document.body.dataset.begun = "yes";
    if (at("#model")) {
      find("#depth-tab-button")?.click();
      requestAnimationFrame(() => find("#depth-checkpoint input")?.focus());
    }
    if (at("#file-menu button")) find("#file-menu").hidePopover?.();
  });

  // The headline goes as soon as another photo than the first is there.
  let firstName;
  function noticePhoto() {
    const name = find("#file-name")?.textContent.trim();
    firstName ??= name;
    if (name !== firstName) document.body.dataset.begun = "yes";
  }

  const update = () => { makeMenu(); followTabs(); noticePhoto(); };
  new MutationObserver(update).observe(document, {
    childList: true, subtree: true, attributes: true, attributeFilter: ["aria-selected"],
  });
})();
