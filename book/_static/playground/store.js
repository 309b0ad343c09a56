// How a live figure "x" is built, in two files:
//
// x-model.js, pure: no page in it, so that the tests can hold its arithmetic to PyTorch's.
//   bn.models.x = { initial, act, numbers, words }
//   initial(preset)      the state at the start, a plain object
//   act(state, action)   the next state, a new object; the old one where nothing changes
//   numbers(state)       all that the figure computes
//   words(state)         one or two sentences: what the picture shows now
// x.js, the view:
//   bn.widgets.x = function (root, options) { ... }
//   builds controls and one `svg` of class pg-picture in `root`, makes a store, and draws a state.
//   With options.preset "still" the picture shows what stands on paper: see book/_tools/stills.py.
//   It has no ids in it, since a page may hold it twice.
//
// book/_figures/x.yml names the scripts (math and page before the others), title and text: see
// book/_ext/playground.py.
(function (bn) {
  "use strict";

  // The state of a figure. Actions change it; a drawing follows in the next frame, one for all
  // the actions of a frame, since a pointer moves more often than a screen is drawn.
  bn.store = function (model, preset, draw) {
    let state = model.initial(preset), asked = false;
    function paint() {
      asked = false;
      draw(state);
    }
    function redraw() {
      if (!asked) requestAnimationFrame(paint);
      asked = true;
    }
    function send(action) {
      const next = model.act(state, action);
      if (next === state) return;
      state = next;
      redraw();
    }
    return { send, redraw, paint, state: () => state };
  };
})((window.bnPlay = window.bnPlay || {}));
