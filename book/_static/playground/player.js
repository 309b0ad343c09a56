// The steps of a figure as a time t from 0 to `last`: a slider, Back, Play and Next.
(function (bn) {
  "use strict";
  const { html, slider, button, calm } = bn.page;
  const MOVING = 0.55; // share of a step's time in which things move; then they rest, to be read
  const CALM = 500; // ms between two pictures where motion is not wanted

  // From one whole step to the next, slow at both ends.
  const eased = (part) => {
    const p = Math.min(1, part / MOVING);
    return p * p * (3 - 2 * p);
  };

  // `name(k)` is the name of step k. `changed(t)` gets whole steps and, while something moves or
  // the slider is between two steps, fractions. Where motion is not wanted there are whole steps only,
  // and of quick ones just some, so that the picture changes twice a second.
  bn.player = function (parent, { label, last, name, start = 0, pace = 1600 }, changed) {
    const box = html(parent, "div", { class: "pg-player" });
    const buttons = html(box, "div", { class: "pg-buttons" });
    const leap = Math.max(1, Math.ceil(CALM / pace)); // steps
    let t = start, told = start, playing = false, clock = 0, before = null;

    const slide = slider(
      box,
      { label, min: 0, max: last, step: 0.02, value: start, format: (v) => name(Math.round(v)) },
      (v) => {
        halt();
        t = v;
        tell(v);
      },
    );
    const back = button(buttons, "Back", () => step(-1));
    const play = button(buttons, "Play", () => (playing ? halt() : begin()));
    const next = button(buttons, "Next", () => step(1));

    // What is shown of a time.
    function picture(v) {
      if (!calm()) return v;
      if (!playing || v >= last) return Math.round(v);
      return Math.max(told, Math.min(last, leap * Math.round(v / leap)));
    }
    function tell(v) {
      const now = picture(v);
      if (now !== told) changed((told = now));
      back.disabled = t <= 0;
      next.disabled = t >= last;
    }
    function put(to) {
      t = Math.max(0, Math.min(last, to));
      slide.put(picture(t));
      tell(t);
    }
    // To the next whole step in a direction.
    function step(way) {
      const focus = document.activeElement;
      halt();
      put(way > 0 ? Math.floor(t + 1.001) : Math.ceil(t - 1.001));
      // A button that is switched off loses the focus; keep it near for the next key.
      if (focus && focus.disabled) play.focus();
    }
    // A key goes a whole step, a finger or a mouse any part of it.
    slide.input.addEventListener("keydown", (e) => {
      const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[e.key];
      if (!way || e.altKey || e.ctrlKey || e.metaKey) return;
      e.preventDefault();
      step(way);
    });

    function begin() {
      if (t >= last) put(0);
      playing = true;
      before = null;
      play.textContent = "Pause";
      clock = Math.floor(t) + (t % 1) * MOVING; // the moment at which it is about there
      requestAnimationFrame(go);
    }
    function halt() {
      if (playing && calm()) t = told; // from what is shown, not from what would be
      playing = false;
      play.textContent = "Play";
    }
    function go(now) {
      if (!playing) return;
      // After a pause of the page itself, go on from where it was.
      const passed = before === null ? 0 : Math.min(100, now - before);
      before = now;
      clock = Math.min(last, clock + passed / pace);
      put(Math.floor(clock) + eased(clock % 1));
      if (t >= last) halt();
      else requestAnimationFrame(go);
    }
    bn.seen(box, (on) => on || halt());
    put(start);
    return { put, halt, t: () => told };
  };
})((window.bnPlay = window.bnPlay || {}));
