// What the widgets share of the page: elements, controls, a line chart, announcements.
(function (bn) {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const { show } = bn.math;
  let ids = 0;

  function set(node, attributes) {
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "text") node.textContent = value;
      else node.setAttribute(name, value);
    }
    return node;
  }
  function into(parent, node, attributes) {
    parent.append(set(node, attributes || {}));
    return node;
  }
  const html = (parent, tag, attributes) => into(parent, document.createElement(tag), attributes);
  const svg = (parent, tag, attributes) => into(parent, document.createElementNS(SVG, tag), attributes);

  function field(parent, label) {
    const box = html(parent, "div", { class: "pg-field" });
    const id = `pg-${++ids}`;
    html(box, "label", { for: id, text: label });
    return { box, id };
  }

  // A slider over a range of numbers, or over a list of values. `late`: tell of a change when it
  // is made, not on the way. A finger that goes on to scroll the page leaves the value as it was.
  function slider(parent, { label, min, max, step, values, value, format = String, unit = "", late }, changed) {
    const { box, id } = field(parent, label);
    const range = values ? { min: 0, max: values.length - 1, step: 1 } : { min, max, step };
    const input = html(box, "input", { id, type: "range", ...range });
    const output = html(box, "output", { for: id, "aria-live": "off" }); // the slider says it
    let told, before;
    const read = () => (values ? values[+input.value] : +input.value);
    const write = () => {
      output.textContent = format(read());
      input.setAttribute("aria-valuetext", format(read()) + unit);
    };
    const put = (v) => {
      input.value = values ? values.indexOf(v) : v;
      told = read();
      write();
    };
    const tell = () => {
      if (read() !== told) changed((told = read()));
    };
    put(value);
    input.addEventListener("input", write);
    input.addEventListener(late ? "change" : "input", tell);
    input.addEventListener("pointerdown", () => (before = input.value));
    input.addEventListener("pointercancel", () => {
      input.value = before;
      write();
      tell();
    });
    return { put, input };
  }

  function select(parent, { label, options, value }, changed) {
    const { box, id } = field(parent, label);
    const input = html(box, "select", { id });
    for (const [key, text] of Object.entries(options)) html(input, "option", { value: key, text });
    input.value = value;
    input.addEventListener("change", () => changed(input.value));
    return input;
  }

  function button(parent, text, pressed) {
    const node = html(parent, "button", { type: "button", text });
    node.addEventListener("click", pressed);
    return node;
  }

  function check(parent, text, changed) {
    const label = html(parent, "label", { class: "pg-check" });
    const input = html(label, "input", { type: "checkbox" });
    label.append(` ${text}`);
    input.addEventListener("change", () => changed(input.checked));
    return input;
  }

  // One of a few, all in sight: radio buttons that look like a row of buttons.
  function choice(parent, { label, options, value }, changed) {
    const box = html(parent, "fieldset", { class: "pg-choice" });
    html(box, "legend", { text: label });
    const name = `pg-${++ids}`;
    const inputs = Object.entries(options).map(([key, text]) => {
      const option = html(box, "label", {});
      const input = html(option, "input", { type: "radio", name, value: key });
      html(option, "span", { text });
      input.checked = key === value;
      input.addEventListener("change", () => changed(key));
      return input;
    });
    return { put: (key) => inputs.forEach((input) => (input.checked = input.value === key)) };
  }

  // Tell screen readers what is new, once the reader has paused, and not more often than `every`
  // ms; of what goes on by itself, after `longest` ms. The first text is the state at the start.
  function announcer(parent, every = 1000, longest = Infinity) {
    const region = html(parent, "p", { class: "pg-spoken", "aria-live": "polite" });
    let waiting = null, last = 0, since = null, said = null;
    return (text) => {
      clearTimeout(waiting);
      said ??= text;
      if (text === said) return void (since = null);
      const now = Date.now();
      since ??= now;
      const rest = Math.min(Math.max(600, every - (now - last)), longest - (now - since));
      waiting = setTimeout(() => {
        last = Date.now();
        since = null;
        region.textContent = said = text;
      }, rest);
    };
  }

  // What a picture shows, as a text: for the eyes at once, for the ears after a pause.
  function words(parent, every, longest) {
    const line = html(parent, "p", { class: "pg-words" });
    const say = announcer(parent, every, longest);
    return (text) => {
      line.textContent = text;
      say(text);
    };
  }

  // The colour of a value, for a shape's attributes: two hues, the stronger the further from 0.
  function heat(value, reach) {
    const strength = Math.min(1, Math.abs(value) / reach);
    return { class: value < 0 ? "pg-below" : "pg-above", "fill-opacity": strength.toFixed(2) };
  }

  // An image of some pixels across, as one path for all pixels of a strength: [strength, path].
  function pixels(values, across, size, left = 0, top = 0) {
    const side = size / across, inks = new Map();
    values.forEach((v, k) => {
      if (!v) return;
      const d = `M${left + (k % across) * side} ${top + Math.floor(k / across) * side}h${side}v${side}h${-side}z`;
      inks.set(v, (inks.get(v) || "") + d);
    });
    return [...inks];
  }
  // The same for a digit of 8x8 pixels from 0 to 16, drawn in ink.
  function digit(parent, values, size, left, top) {
    for (const [v, d] of pixels(values, 8, size, left, top)) {
      svg(parent, "path", { d, class: "pg-ink", "fill-opacity": (v / 16).toFixed(2) });
    }
  }

  // Call `draw` when the element gets another width (and once at the start).
  function onWidth(node, draw) {
    let before = 0;
    new ResizeObserver(() => {
      if (node.clientWidth && node.clientWidth !== before) {
        before = node.clientWidth;
        draw();
      }
    }).observe(node);
  }

  // A line through points; one alone is a short dash, to be seen at all.
  const line = (points) =>
    points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("") +
    (points.length === 1 ? "h4" : "");

  // A small chart. `lines` maps a style class to points [x, y]; NaN ends a line.
  function chart(parent, { title, xLabel, height = 170, low, high, log = false, ticks, names = {} }) {
    const figure = html(parent, "figure", { class: "pg-chart" });
    const caption = html(figure, "figcaption", { text: title });
    for (const [kind, name] of Object.entries(names)) {
      html(caption, "span", { class: `pg-key ${kind}`, text: name });
    }
    const box = html(figure, "div");
    const root = svg(box, "svg", { role: "img", "aria-label": title, height });
    const grid = svg(root, "g", {}), marks = svg(root, "g", {});
    const paths = {};
    const scale = (v) => (log ? Math.log10(v) : v);
    const y = (v) => {
      const t = (scale(v) - scale(low)) / (scale(high) - scale(low));
      return height - 26 - Math.min(1, Math.max(0, t)) * (height - 36);
    };
    let width = 300, drawn = { xMax: 1, lines: {} };
    function frame(xMax) {
      grid.replaceChildren();
      for (const tick of ticks) {
        svg(grid, "line", { x1: 42, x2: width - 4, y1: y(tick), y2: y(tick), class: "pg-grid" });
        svg(grid, "text", { x: 38, y: y(tick) + 4, "text-anchor": "end", text: show(tick, 3).replace(/\.?0+$/, "") });
      }
      svg(grid, "text", { x: 42, y: height - 8, text: "0" });
      svg(grid, "text", { x: width - 4, y: height - 8, "text-anchor": "end", text: `${xMax} ${xLabel}` });
    }
    function draw(xMax, lines, dots = []) {
      drawn = { xMax, lines, dots };
      width = Math.max(160, box.clientWidth);
      const key = `${width} ${xMax}`;
      if (root.dataset.frame !== key) {
        root.dataset.frame = key;
        set(root, { width, viewBox: `0 0 ${width} ${height}` });
        frame(xMax);
      }
      const x = (v) => 42 + (v / xMax) * (width - 46);
      for (const [kind, points] of Object.entries(lines)) {
        paths[kind] ??= svg(root, "path", { class: `pg-line ${kind}` });
        const good = points.filter((p) => !Number.isNaN(p[1]));
        set(paths[kind], { d: line(good.map((p) => [x(p[0]), y(p[1])])) });
      }
      while (marks.childNodes.length > dots.length) marks.lastChild.remove();
      dots.forEach(([at, value, kind], i) =>
        set(marks.childNodes[i] || svg(marks, "circle", { r: 2 }), { cx: x(at), cy: y(value), class: kind }),
      );
    }
    onWidth(box, () => draw(drawn.xMax, drawn.lines, drawn.dots));
    return { draw, describe: (text) => set(root, { "aria-label": `${title}. ${text}` }) };
  }

  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  bn.page = {
    html, svg, set, show, slider, select, choice, button, check, announcer, words, heat, pixels, digit, onWidth, chart, calm,
  };
})((window.bnPlay = window.bnPlay || {}));
