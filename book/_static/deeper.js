/* Opens the folds that a link or a search leads into, and those of "Going deeper" on paper. */
(function () {
  "use strict";
  function target() {
    const name = decodeURIComponent(location.hash.slice(1));
    return name && document.getElementById(name);
  }
  function reveal() {
    const wanted = target();
    if (!wanted) return;
    const section = wanted.matches("section") ? wanted : wanted.parentElement;
    const folds = new Set(section ? section.querySelectorAll(":scope > details.deeper") : []);
    for (let at = wanted.closest("details.deeper"); at; at = at.parentElement.closest("details.deeper"))
      folds.add(at);
    const closed = [...folds].filter((fold) => !fold.open);
    for (const fold of closed) fold.open = true;
    const boxes = [], HIDDEN = ".admonition.toggle-hidden";
    for (let at = wanted.closest(HIDDEN); at; at = at.parentElement.closest(HIDDEN)) boxes.push(at);
    for (const box of boxes) box.querySelector(".toggle-button").click();
    if (closed.length || boxes.length) wanted.scrollIntoView(); // it had no place before
  }
  addEventListener("hashchange", reveal);
  addEventListener("DOMContentLoaded", reveal); // sphinx-togglebutton has closed its boxes by then
  addEventListener("beforeprint", () => {
    for (const fold of document.querySelectorAll("details.deeper")) fold.open = true;
  });
  reveal();
})();
