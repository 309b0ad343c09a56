// Put each widget into its place on the page.
(function (bn) {
  "use strict";
  for (const place of document.querySelectorAll("[data-playground]")) {
    const live = bn.page.html(place, "div", { class: "pg-live" });
    bn.widgets[place.dataset.playground](live, place.dataset);
    place.classList.add("pg-ready");
  }
})(window.bnPlay);
