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

  /* A formula or figure that is wider than a narrow screen scrolls; the keyboard has to reach it for
     that. All are measured before one is changed: each change would have the page laid out again. */
  function reachWide() {
    const boxes = [...document.querySelectorAll("mjx-container[display='true'], .drawing")];
    const wide = boxes.map((box) => box.scrollWidth > box.clientWidth);
    boxes.forEach((box, i) => {
      if (wide[i] === box.hasAttribute("tabindex")) return;
      if (wide[i]) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    });
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

  function start() {
    printInLight();
    followContents();
    nameFolds();
    reachWide();
    window.addEventListener("resize", reachWide);
  }
  if (document.readyState === "complete") start();
  else window.addEventListener("load", start);
})();
