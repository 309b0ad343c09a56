// Put each figure into its place on the page: those with a still, which keeps the place, when the
// reader comes near, one a frame; the others at once.
(function (bn) {
  "use strict";
  const waiting = [];

  function start(place) {
    const live = bn.page.html(place, "div", { class: "pg-live" });
    try {
      bn.widgets[place.dataset.playground](live, place.dataset);
      place.classList.add("pg-ready");
    } catch (error) {
      live.remove(); // the still and the text stay
      reportError(error);
    }
  }
  function next() {
    const place = waiting.shift();
    if (!place) return;
    start(place);
    requestAnimationFrame(next);
  }

  for (const place of document.querySelectorAll("[data-playground]")) {
    if (!place.querySelector(".pg-still")) {
      start(place);
      continue;
    }
    const stop = bn.seen(place, (near) => {
      if (!near) return;
      stop();
      waiting.push(place);
      if (waiting.length === 1) requestAnimationFrame(next);
    }, "100%");
  }
})(window.bnPlay);
