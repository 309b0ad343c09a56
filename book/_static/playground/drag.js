// Dragging, by mouse, pen or finger, and the keys that do the same.
(function (bn) {
  "use strict";

  // `grab(event)` says what is taken hold of: { element, move(event), cancel(), drop(event) }, or
  // nothing. A finger that goes on to scroll the page cancels: `cancel` puts things back.
  // The area's style needs `touch-action`, on the whole picture: Chromium ignores it on parts.
  function drag(area, grab) {
    area.addEventListener("pointerdown", (e) => {
      if (e.button) return; // the menu button drags nothing
      const grip = grab(e);
      if (!grip) return;
      const stop = new AbortController(), until = { signal: stop.signal };
      const mine = (act) => (m) => m.pointerId === e.pointerId && act(m);
      grip.element.setPointerCapture(e.pointerId);
      grip.element.addEventListener("pointermove", mine((m) => grip.move(m)), until);
      grip.element.addEventListener("pointerup", mine((m) => {
        stop.abort();
        if (grip.drop) grip.drop(m);
      }), until);
      grip.element.addEventListener("pointercancel", mine(() => {
        stop.abort();
        grip.cancel();
      }), until);
      e.preventDefault();
    });
  }

  // Where a key moves a value to; null for all other keys, and for those of the browser itself.
  function keyed(event, value, { low, high, step, leap }) {
    if (event.altKey || event.ctrlKey || event.metaKey) return null;
    const one = event.shiftKey ? leap : step;
    const steps = { ArrowRight: one, ArrowUp: one, ArrowLeft: -one, ArrowDown: -one, PageUp: leap, PageDown: -leap };
    const ends = { Home: low, End: high };
    if (event.key in ends) return ends[event.key];
    if (event.key in steps) return Math.max(low, Math.min(high, value + steps[event.key]));
    return null;
  }

  bn.drag = { drag, keyed };
})((window.bnPlay = window.bnPlay || {}));
