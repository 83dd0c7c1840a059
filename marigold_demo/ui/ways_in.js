// Ways into the page: files that are dropped anywhere, chosen or pasted, and pictures of the camera. All are
// uploaded here, with progress and a way to cancel, and handed to the server, which judges them by their content.
// Gradio's own boxes take pictures by the browser's guess only, empty themselves first, and cannot be stopped.
(() => {
  const ways = (window.waysIn = {});
  const INPUTS = { depth: 'input[type="file"][accept*=".npy"]', recipe: 'input[type="file"][accept*=".3mf"]' };
  const OFTEN_MS = 100; // between two pictures of the progress

  // Fills a field of Gradio that is out of sight, through which the page hears of something; soon, where the
  // page is still being built.
  function tell(id, value, tries = 100) {
    const field = document.querySelector(`#${id} textarea`);
    if (!field) {
      if (tries) setTimeout(tell, 200, id, value, tries - 1);
      return;
    }
    field.value = value;
    field.dispatchEvent(new Event("input", { bubbles: true }));
  }

  let said = 0;
  function say(words, alert = true) {
    const line = document.createElement("div");
    line.className = alert ? "status alert" : "status";
    line.setAttribute("role", "status");
    line.setAttribute("aria-live", "polite");
    line.append(document.createElement("span"));
    line.firstChild.textContent = words;
    tell("say", `${line.outerHTML}<!-- ${(said += 1)} -->`); // or the same words again would be no change
  }

  // Uploads ---------------------------------------------------------------------------------------------------

  let choices = 0; // how often something was chosen; what an earlier choice still brings is dropped
  let request = null;
  let uploaded = null; // what the server made of the last file, and how it was brought

  function choseAnother() {
    choices += 1;
    request?.abort();
    request = null;
    showProgress(null);
  }

  function take(files, how = {}) {
    const file = files[0];
    if (!file) return;
    choseAnother();
    const mine = choices;
    const most = window.gradio_config?.max_file_size;
    if (most && file.size > most) {
      say(`The file has ${Math.ceil(file.size / 1e6)} MB; at most ${Math.floor(most / 1e6)} MB can be uploaded.`);
      return;
    }
    const form = new FormData();
    form.append("files", file, file.name);
    request = new XMLHttpRequest();
    const sent = request;
    let shown_ms = 0;
    sent.upload.onprogress = (event) => {
      if (mine !== choices || performance.now() - shown_ms < OFTEN_MS) return;
      shown_ms = performance.now();
      showProgress(event.lengthComputable ? event.loaded / event.total : 0, file.name);
    };
    sent.onload = () => {
      if (mine !== choices) return;
      request = null;
      showProgress(null);
      const [path] = sent.status === 200 ? JSON.parse(sent.responseText) : [];
      if (!path) return say(refusal(sent));
      const meta = { _type: "gradio.FileData" };
      uploaded = { path, orig_name: file.name, size: file.size, mime_type: file.type, meta };
      tell("intake", JSON.stringify({ choice: mine, others: files.length - 1, ...how }));
    };
    sent.onerror = () => {
      if (mine !== choices) return;
      request = null;
      showProgress(null);
      say("The upload broke off; check the connection and try again.");
    };
    const { root = "", api_prefix = "/gradio_api" } = window.gradio_config ?? {};
    sent.open("POST", `${root}${api_prefix}/upload`);
    sent.send(form);
    showProgress(0, file.name);
  }

  function refusal(answer) {
    const words = answer.responseText.trim();
    return answer.status < 500 || answer.status === 507 || answer.status === 503
      ? words.slice(0, 300) || "The file was refused; try another one."
      : "The server could not take the file; try again.";
  }

  // What the event of the field "intake" sends: the upload in place of what its box holds.
  ways.uploaded = (values) => [uploaded, ...values.slice(1)];

  function showProgress(share, name = "") {
    let bar = document.querySelector("#upload");
    if (share === null) {
      bar?.remove();
      return;
    }
    if (!bar) {
      bar = document.createElement("div");
      bar.id = "upload";
      bar.innerHTML =
        '<span role="status"></span><progress max="1" aria-label="Upload"></progress><button type="button">Cancel upload</button>';
      bar.lastChild.addEventListener("click", () => {
        choseAnother();
        say("The upload was canceled.", false);
      });
      document.body.append(bar);
    }
    const words = `Uploading ${name}`;
    if (bar.firstChild.textContent !== words) bar.firstChild.textContent = words;
    bar.querySelector("progress").value = share;
  }

  // An example, or a photo that is taken away, is a choice as well.
  document.addEventListener("click", (event) => {
    if (event.target.closest?.('#examples button, #photo button[aria-label="Remove Image"]')) choseAnother();
  }, true);

  // Files that are chosen -------------------------------------------------------------------------------------

  document.addEventListener("change", (event) => {
    const input = event.target;
    if (!input.matches?.('input[type="file"]')) return;
    event.stopImmediatePropagation();
    const as = Object.keys(INPUTS).find((kind) => input.matches(INPUTS[kind]));
    const files = [...input.files];
    input.value = ""; // so that the same file can be chosen again
    take(files, as ? { as } : {});
  }, true);

  function choose() {
    const input = document.createElement("input");
    input.type = "file";
    input.addEventListener("change", () => take([...input.files]));
    input.click();
  }

  // Gradio's input names kinds of pictures, which leaves out those that a browser does not know.
  new MutationObserver(() => {
    document.querySelectorAll('#photo input[type="file"][accept]').forEach((input) => input.removeAttribute("accept"));
  }).observe(document, { childList: true, subtree: true });

  // Files that are dropped ------------------------------------------------------------------------------------

  let isOwn = false; // a picture of the page itself is dragged
  document.addEventListener("dragstart", () => { isOwn = true; }, true);
  document.addEventListener("dragend", () => { isOwn = false; }, true);

  function onDrag(event) {
    if (isOwn) return;
    event.preventDefault(); // or the browser opens the file in place of the page
    event.stopImmediatePropagation();
    const leaves = event.type === "drop" || (event.type === "dragleave" && !event.relatedTarget);
    document.documentElement.classList.toggle("dropping", !leaves);
    if (event.type === "drop") dropped(event.dataTransfer);
  }
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) window.addEventListener(kind, onDrag, true);

  function dropped(data) {
    const isFolder = [...data.items].some((item) => item.webkitGetAsEntry?.()?.isDirectory);
    if (isFolder) say("This is a folder; drop the photo that is in it.");
    else if (data.files.length) take([...data.files]);
    else if (data.types.includes("text/uri-list"))
      say("Only the address of the picture arrived. Copy the picture and paste it with Ctrl+V, or save it and drop the file.");
    else say("No file arrived; drop a photo, a depth file or a recipe.");
  }

  // The clipboard ---------------------------------------------------------------------------------------------

  const NO_PICTURE = "The clipboard holds text, no picture; copy a picture and press Ctrl+V again.";
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    const isField = event.target.closest?.('input:not([type="file"]), textarea, [contenteditable="true"]');
    if (files.length) {
      event.preventDefault();
      event.stopImmediatePropagation();
      take(files);
    } else if (!isField) say(NO_PICTURE);
  }, true);

  async function paste() {
    try {
      for (const item of await navigator.clipboard.read()) {
        const kind = item.types.find((type) => type.startsWith("image/"));
        if (kind) {
          const ending = kind.slice(6).replace("+xml", "");
          return take([new File([await item.getType(kind)], `pasted.${ending}`, { type: kind })]);
        }
      }
      say(NO_PICTURE);
    } catch {
      say("The browser does not show the clipboard to this button; press Ctrl+V instead.");
    }
  }

  // The camera ------------------------------------------------------------------------------------------------

  const REFUSED = {
    NotAllowedError: "The camera was not allowed; allow it for this page in the browser’s settings, or choose a photo.",
    NotFoundError: "There is no camera here; choose a photo.",
    NotReadableError: "The camera is in use by another program; close that, or choose a photo.",
  };

  async function camera() {
    if (!navigator.mediaDevices?.getUserMedia)
      return say("Browsers open the camera only for pages with https; choose a photo that was taken before.");
    let stream;
    try { // the rear one of a phone; any other where there is none
      const video = { facingMode: { ideal: "environment" }, width: { ideal: 1920 }, height: { ideal: 1440 } };
      stream = await navigator.mediaDevices.getUserMedia({ video });
    } catch (error) {
      return say(REFUSED[error.name] ?? "The camera cannot be opened; choose a photo.");
    }
    const dialog = document.createElement("dialog");
    dialog.id = "camera";
    dialog.setAttribute("aria-label", "Camera");
    dialog.innerHTML = `<video autoplay muted playsinline></video>
      <div><button type="button" id="shutter" disabled>Take the photo</button><button type="button">Close the camera</button></div>`;
    const video = dialog.querySelector("video");
    const [shutter, close] = dialog.querySelectorAll("button");
    video.srcObject = stream;
    video.addEventListener("playing", () => { shutter.disabled = false; });
    dialog.addEventListener("close", () => {
      stream.getTracks().forEach((track) => track.stop());
      dialog.remove();
    });
    close.addEventListener("click", () => dialog.close());
    shutter.addEventListener("click", () => {
      const canvas = document.createElement("canvas"); // as the lens sees it, never mirrored
      [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
      canvas.getContext("2d").drawImage(video, 0, 0);
      canvas.toBlob((data) => take([new File([data], "camera.jpg", { type: "image/jpeg" })]), "image/jpeg", 0.95);
      dialog.close();
    });
    document.body.append(dialog);
    dialog.showModal();
  }

  // What is kept ----------------------------------------------------------------------------------------------

  // A key in the address is taken out of it before anything else is loaded: Gradio repeats the address in each of
  // its requests, and it would stay in the browser's history.
  const KEPT = "marigold-demo";
  const address = new URL(location.href);
  const linked = address.searchParams.get("result");
  if (linked !== null) {
    address.searchParams.delete("result");
    history.replaceState(history.state, "", address);
  }
  // A page that Back brings from the browser's memory has no session any more.
  addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  function stored() {
    try {
      return JSON.parse(sessionStorage.getItem(KEPT)) ?? null;
    } catch {
      return null;
    }
  }

  // Of two pages that are open, each keeps its own; a new one begins with what was kept last.
  let before = linked ? null : stored();
  ways.recall = (kept) => {
    if (linked !== null) return [{ key: linked.slice(0, 64), from: "link" }];
    const found = before ? { ...before, from: "tab" } : kept?.key ? { ...kept, from: "browser" } : null;
    cameraPosition = found?.camera ?? null;
    if (found) objectPreview.restore(cameraPosition);
    return [found];
  };

  // The camera of the 3D preview is kept once it has come to rest.
  let cameraPosition = null;
  let lastTicket = null;
  const REST_MS = 800;
  let resting, turns = 0;
  for (const kind of ["pointerup", "wheel"])
    window.addEventListener(kind, (event) => {
      if (!event.target.closest?.("#preview-box")) return;
      clearTimeout(resting);
      resting = setTimeout(() => tell("turned", String((turns += 1))), REST_MS);
    }, { capture: true, passive: true });
  ways.turned = (view) => {
    const found = view?.camera_position;
    if (found?.every((part) => typeof part === "number")) cameraPosition = found;
    return [{ value: null }];
  };
  ways.keepCamera = (kept) => {
    const now = stored();
    if (!now || !cameraPosition) return [kept];
    store({ ...now, camera: cameraPosition });
    return [now.own ? { ...now, camera: cameraPosition } : kept];
  };

  function store(now) {
    try {
      sessionStorage.setItem(KEPT, JSON.stringify(now));
    } catch {} // no room, or not allowed: the page works without
  }

  let untouched; // settings of the example that the page begins with
  let isKept = false; // before the first key of this page, what an earlier one kept stays
  ways.keep = (names, [kept, ticket, ...values]) => {
    if (ticket) {
      const told = JSON.parse(ticket);
      if (lastTicket && lastTicket !== ticket) cameraPosition = null; // another object
      lastTicket = ticket;
      if (told.opening) { // who has changed nothing yet has nothing to come back to
        untouched ??= JSON.stringify(values);
        if (untouched === JSON.stringify(values)) return [kept];
      }
      isKept = true;
      const settings = Object.fromEntries(names.map((name, index) => [name, values[index]]));
      const now = { ...told, settings, camera: cameraPosition };
      store(now);
      return [now.own ? now : kept];
    }
    if (isKept) forget();
    return [isKept ? null : kept];
  };

  function forget() {
    try {
      sessionStorage.removeItem(KEPT);
      localStorage.removeItem(KEPT);
    } catch {}
  }

  function startOver() {
    forget();
    location.replace(location.pathname + location.search);
  }

  ways.copyLink = async (key) => {
    const link = new URL(location.pathname, location.origin);
    link.searchParams.set("result", key);
    try {
      await navigator.clipboard.writeText(link.href);
      say("The link is copied. Whoever has it sees this photo and its depth, for as long as they are kept here.", false);
    } catch {
      say(`The link, to be copied: ${link.href}`, false);
    }
    return [];
  };

  // The buttons of the photo box, and those that the page has elsewhere: data-way="choose", "paste", "camera".
  const WAYS = { choose, paste, camera, "start-over": startOver };
  const OF_GRADIO = { "Upload file": "choose", "Paste from clipboard": "paste", "Capture from camera": "camera" };
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("#photo button[aria-label], [data-way]");
    const way = WAYS[button?.dataset.way ?? OF_GRADIO[button?.getAttribute("aria-label")]];
    if (!way) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    way();
  }, true);
})();
