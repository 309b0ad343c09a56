/* What every page does: the list of its headings follows the reader, and folds say what they hide. */
(function () {
  "use strict";

  /* The theme watches headings come and go, and misses those that a jump passes over. */
  function followContents() {
    const links = [...document.querySelectorAll(".page-toc a[href^='#']")];
    const places = links.map((link) => document.getElementById(decodeURIComponent(link.hash.slice(1))));
    if (!places.some(Boolean)) return;
    let asked = false;

    function current() {
      const bottom = window.scrollY + window.innerHeight >= document.documentElement.scrollHeight - 2;
      const line = bottom ? window.innerHeight : window.innerHeight * 0.3;
      let found = -1;
      places.forEach((place, i) => {
        if (place && place.getBoundingClientRect().top <= line) found = i;
      });
      return links[found];
    }
    function mark() {
      asked = false;
      const here = current();
      for (const link of links) {
        const is = link === here || Boolean(here && link.parentElement.contains(here));
        link.classList.toggle("is-here", is);
        if (link === here) link.setAttribute("aria-current", "location");
        else link.removeAttribute("aria-current");
      }
    }
    window.addEventListener("scroll", () => {
      if (!asked) requestAnimationFrame(mark);
      asked = true;
    }, { passive: true });
    mark();
  }

  /* sphinx-togglebutton calls all of them "Toggle hidden content"; its title says more. */
  function nameFolds() {
    for (const arrow of document.querySelectorAll("summary > .toctree-toggle")) {
      // The theme draws an arrow beside a page that has pages of its own, and no word.
      const page = arrow.closest("li").querySelector("a").textContent.trim();
      arrow.parentElement.setAttribute("aria-label", `Show or hide the pages of ${page}`);
    }
    for (const button of document.querySelectorAll(".toggle-button")) {
      const title = button.closest(".admonition-title");
      if (title) button.setAttribute("aria-label", `Show or hide: ${title.textContent.trim().replace(/\s+/g, " ")}`);
    }
  }

  /* What is wider or higher than its box scrolls; the keyboard has to reach it for that. All are
     measured before one is changed, since each change would have the page laid out again, and a
     closed fold is left closed: to measure in it, the browser would have to lay it out as well. */
  const BOXES = "pre, .cell_output > .output, .pst-scrollable-table-container, .drawing, mjx-container[display='true']";
  function reachWide() {
    const boxes = [...document.querySelectorAll(BOXES)].filter((box) => !box.closest("details:not([open])"));
    const wide = boxes.map((b) => b.scrollWidth > b.clientWidth || b.scrollHeight > b.clientHeight);
    boxes.forEach((box, i) => {
      if (wide[i] === (box.tabIndex === 0)) return;
      if (wide[i]) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
  }
  let waiting;
  function reachWideSoon() {
    clearTimeout(waiting);
    waiting = setTimeout(reachWide, 300);
  }

  /* Paper is white: the dark pauses while the page is printed. */
  function printInLight() {
    const root = document.documentElement;
    let before;
    window.addEventListener("beforeprint", () => {
      before = root.dataset.theme;
      root.dataset.theme = "light";
    });
    window.addEventListener("afterprint", () => {
      if (before) root.dataset.theme = before;
    });
  }

  function start(event) {
    /* The theme's own listener, which comes after this one, would do what reachWide does, but box
       after box and in all folds: most of a second on a phone. */
    if (event) event.stopImmediatePropagation();
    printInLight();
    followContents();
    nameFolds();
    reachWide();
    for (const [target, type] of [[window, "resize"], [document, "toggle"], [document, "click"]]) {
      target.addEventListener(type, reachWideSoon, true);
    }
  }
  if (document.readyState === "complete") start();
  else window.addEventListener("load", start);
})();
