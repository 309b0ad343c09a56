// Whether a part of the page is on the screen, or nearly.
(function (bn) {
  "use strict";

  // Calls `changed(true or false)` at once and whenever it changes; returns how to stop that.
  // A margin of "100%" also counts what is one screen away.
  bn.seen = function (node, changed, margin = "0px") {
    const told = (entries) => changed(entries[entries.length - 1].isIntersecting);
    const watch = new IntersectionObserver(told, { rootMargin: `${margin} 0px` });
    watch.observe(node);
    return () => watch.disconnect();
  };
})((window.bnPlay = window.bnPlay || {}));
