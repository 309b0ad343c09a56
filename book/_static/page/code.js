/* Read or Code: in Read, each cell's code folds to a line that says what is there, and opens by a
   click; its output stays. The cell of an exercise, where the reader is to write, stays open. Which
   of the two is remembered. Without scripts all code is shown. */
(function () {
  "use strict";
  const KEY = "bn-code";
  const FEW = 3; // pages with fewer cells need no switch
  const inputs = [...document.querySelectorAll(".cell:not(.tag_exercise, .tag_solution) > .cell_input")];
  if (inputs.length < FEW) return;

  function remembered() {
    try {
      return localStorage.getItem(KEY) === "read" ? "read" : "code";
    } catch {
      return "code"; // a browser that stores nothing
    }
  }
  function remember(mode) {
    try {
      localStorage.setItem(KEY, mode);
    } catch {} // eslint-disable-line no-empty
  }

  /* "12 lines of code, with the function f": what a reader can decide by whether to open it. */
  function describe(code) {
    const lines = code.split("\n").filter((line) => line.trim());
    const names = [...code.matchAll(/^(?:def|class)\s+(\w+)/gm)].map((match) => match[1]);
    const setup = lines.every((line) => /^(import|from)\s|^[\w.]+\(|^\w+\s*=|^\s/.test(line)) && /^(import|from)\s/.test(lines[0] || "");
    const count = `${lines.length} ${lines.length === 1 ? "line" : "lines"} of code`;
    if (names.length) return `${count}: ${names.join(", ")}`;
    return setup ? `${count}: set-up` : count;
  }

  const folds = inputs.map((input) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "code-fold";
    button.textContent = describe(input.textContent);
    input.before(button);
    const fold = { input, button };
    button.addEventListener("click", () => show(fold, input.hasAttribute("hidden")));
    input.addEventListener("beforematch", () => show(fold, true));
    return fold;
  });

  function show({ input, button }, shown) {
    if (shown) input.removeAttribute("hidden");
    else input.setAttribute("hidden", "until-found"); // the browser's search looks into it
    button.setAttribute("aria-expanded", String(shown));
  }

  const group = document.createElement("div");
  group.className = "code-switch";
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "Code on this page");
  const buttons = { read: "Read", code: "Code" };
  for (const [mode, text] of Object.entries(buttons)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.title = mode === "read" ? "Fold the code" : "Show the code";
    button.addEventListener("click", () => {
      remember(mode);
      set(mode);
    });
    buttons[mode] = button;
    group.append(button);
  }

  function set(mode) {
    document.documentElement.dataset.code = mode;
    for (const fold of folds) show(fold, mode === "code");
    for (const [name, button] of Object.entries(buttons)) button.setAttribute("aria-pressed", String(name === mode));
  }

  document.querySelector(".article-header-buttons")?.prepend(group);
  set(remembered());
})();
