/* Predictions. The page says all without this script; here each question becomes a form, and what
   it covers stays covered until the reader has chosen, or wants to see it without a guess.

   What was chosen is kept in the browser, under the page's name, by the question's id, which changes
   with its words. "" stands for "shown without a guess". */
(function () {
  "use strict";
  const questions = new Map(); // id -> what is known of a question
  const SHOWN = "";

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    return element;
  }

  /* A browser may refuse to store anything; then a choice lasts as long as the page. */
  const key = (page) => `bn-predict/${page}`;
  function stored(page) {
    try {
      return JSON.parse(localStorage.getItem(key(page))) || {};
    } catch {
      return {};
    }
  }
  function store({ page, id }, choice) {
    const choices = stored(page);
    if (choice === undefined) delete choices[id];
    else choices[id] = choice;
    try {
      localStorage.setItem(key(page), JSON.stringify(choices));
    } catch {} // eslint-disable-line no-empty
  }

  const number = (text) => (text.trim() ? Number(text.replace(",", ".").replace("−", "-")) : NaN);

  function isRight({ answer, within }, choice) {
    if (!within) return choice === answer;
    const off = Math.abs(number(choice) - Number(answer));
    return off <= Number(within) * (1 + 1e-9);
  }

  /* The line that says how the guess was. */
  function verdict(question) {
    const { choice, answer } = question;
    if (choice === SHOWN) return `Shown without a guess. The answer is ${answer}.`;
    if (isRight(question, choice)) return question.within ? `Right: ${answer}.` : `Right: ${choice}.`;
    return `Not quite. You chose ${choice}; the answer is ${answer}.`;
  }

  /* ---- The form ---- */

  function legend(root) {
    const element = make("legend");
    element.append(make("span", "predict-title", "Predict"));
    const question = root.querySelector(".predict-question");
    while (question.firstElementChild?.tagName === "P") {
      const line = make("span", "predict-line");
      line.append(...question.firstElementChild.childNodes);
      question.firstElementChild.remove();
      element.append(" ", line);
    }
    root.querySelector("p.predict-title").remove();
    return element;
  }

  /* Each answer of the list gets a button of its own in front; the list stays a list. */
  function choices(root, id) {
    const list = root.querySelector(".predict-answers");
    [...list.children].forEach((item, i) => {
      const letter = "ABCD"[i];
      const label = make("label");
      const input = Object.assign(make("input"), { type: "radio", name: id, value: letter });
      const words = make("span", "predict-words");
      for (const child of [...item.childNodes]) {
        if (child.tagName === "P") words.append(...child.childNodes);
        else words.append(child);
      }
      item.replaceChildren(label);
      label.append(input, make("span", "predict-letter", letter), " ", words, make("span", "predict-mark"));
    });
    return list;
  }

  function numberField(id) {
    const label = make("label", "predict-number", "Your number: ");
    const input = Object.assign(make("input"), { type: "text", name: id, autocomplete: "off" });
    input.inputMode = "decimal";
    input.size = 10;
    label.append(input);
    return label;
  }

  function button(text, pressed) {
    const element = make("button", "", text);
    element.type = pressed ? "button" : "submit";
    if (pressed) element.addEventListener("click", pressed);
    return element;
  }

  function build(root) {
    const { answer, within = "", page } = root.dataset;
    const question = { id: root.id, root, page, answer, within, revealed: false };
    const form = make("form"), field = make("fieldset");
    form.noValidate = true;
    field.append(legend(root), root.querySelector(".predict-question"));
    field.append(within ? numberField(root.id) : choices(root, root.id));
    const buttons = make("p", "predict-buttons");
    buttons.append(button("Check my prediction"), button("Show without guessing", () => commit(question, SHOWN)));
    question.status = make("p", "predict-said");
    question.status.setAttribute("role", "status");
    question.status.setAttribute("aria-live", "polite");
    question.status.tabIndex = -1;
    question.again = button("Guess again", () => reset(question));
    question.again.className = "predict-again";
    field.append(buttons);
    form.append(field);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      submitted(question, form.elements[root.id]);
    });
    Object.assign(question, { form, buttons });
    root.prepend(form, question.status);
    root.append(question.again);
    question.covers = [...document.getElementsByClassName(`by-${root.id}`)];
    question.waits = waits(question.covers);
    root.classList.add("predict-ready");
    return question;
  }

  /* A line in place of each part that is covered, so that the page does not look broken. */
  function waits(covers) {
    const follows = ({ previousElementSibling: before }) => before && covers.some((cover) => before.contains(cover));
    return covers.filter((cover) => !follows(cover)).map((cover, i) => {
      const words = i ? "This appears with your prediction, too."
        : "The result, and the text about it, appear here once you have made your prediction.";
      const wait = make("p", "predict-wait", words);
      cover.before(wait);
      return { wait, cover };
    });
  }

  function submitted(question, { value }) {
    if (question.within && Number.isNaN(number(value))) {
      question.status.textContent = "Please write a number, for example 0.5.";
    } else if (!value) {
      question.status.textContent = "Choose an answer first.";
    } else {
      commit(question, value.trim());
    }
  }

  /* ---- What happens ---- */

  function commit(question, choice) {
    question.choice = choice;
    store(question, choice);
    update(question);
    question.status.focus(); // the button that had it is gone
    tally();
  }

  function reset(question) {
    question.choice = undefined;
    question.revealed = false;
    store(question, undefined);
    question.form.reset();
    update(question);
    question.form.querySelector("input").focus();
    tally();
  }

  function update(question) {
    const { root, form, choice, answer, within } = question;
    const open = choice === undefined;
    root.dataset.state = open ? "open" : choice === SHOWN ? "shown" : isRight(question, choice) ? "right" : "wrong";
    question.buttons.hidden = !open;
    question.again.hidden = open;
    question.status.textContent = open ? "" : verdict(question);
    for (const input of form.querySelectorAll("input")) {
      input.disabled = !open;
      if (within) {
        if (!open) input.value = choice;
        continue;
      }
      const mine = input.value === choice, right = !open && input.value === answer;
      if (!open) input.checked = mine;
      const item = input.closest("li");
      item.classList.toggle("is-right", right);
      item.classList.toggle("is-mine", mine);
      const marks = [right && "✓ the answer", mine && !right && "✗ your choice"].filter(Boolean);
      item.querySelector(".predict-mark").textContent = marks.join(", ");
    }
    showOrCover(question);
  }

  const covering = (question) => question.choice === undefined && !question.revealed;

  /* `until-found` lets the browser's own search look into what is covered, and uncover it. */
  function showOrCover({ covers, waits }) {
    for (const element of covers) {
      const covered = [...questions.values()].some((q) => q.covers.includes(element) && covering(q));
      if (covered) element.setAttribute("hidden", "until-found");
      else element.removeAttribute("hidden");
    }
    for (const { wait, cover } of waits) wait.hidden = !cover.hasAttribute("hidden");
  }

  /* Uncover what a reader has come for by a link or a search. It is no answer, and not kept. */
  function reveal(element) {
    for (const question of questions.values()) {
      if (question.covers.some((cover) => cover.contains(element)) && covering(question)) {
        question.revealed = true;
        showOrCover(question);
      }
    }
  }

  function target() {
    const name = decodeURIComponent(location.hash.slice(1));
    const element = name ? document.getElementById(name) : null;
    if (!element?.closest(".predict-cover[hidden]")) return;
    reveal(element);
    element.scrollIntoView();
  }

  /* ---- The tally at the end ---- */

  let place;
  function tally() {
    const all = [...questions.values()];
    if (!place) {
      place = make("div", "predict-tally");
      place.setAttribute("role", "group");
      place.setAttribute("aria-label", "Your predictions");
      document.querySelector("article").append(place);
    }
    const made = all.filter((q) => q.choice), right = made.filter((q) => isRight(q, q.choice));
    const left = all.filter((q) => q.choice === undefined);
    const line = make("p");
    line.append(make("strong", "", "Your predictions"), `: ${made.length} of ${all.length} made, ${right.length} right.`);
    if (left.length && left.length < all.length) {
      line.append(" Still open: ");
      left.forEach((q, i) => {
        const link = make("a", "", String(all.indexOf(q) + 1));
        link.href = `#${q.id}`;
        link.setAttribute("aria-label", `Prediction ${all.indexOf(q) + 1}`);
        line.append(i ? ", " : "", link);
      });
      line.append(".");
    }
    place.replaceChildren(line);
    if (left.length < all.length) {
      const again = button("Forget them and ask again", () => {
        for (const question of all) {
          question.choice = undefined;
          question.revealed = false;
          store(question, undefined);
          question.form.reset();
          update(question);
        }
        tally();
        place.tabIndex = -1;
        place.focus({ preventScroll: false });
      });
      place.append(again);
    }
  }

  for (const root of document.querySelectorAll(".predict")) questions.set(root.id, build(root));
  if (!questions.size) return;
  for (const question of questions.values()) {
    question.choice = stored(question.page)[question.id];
    update(question);
    for (const cover of question.covers) cover.addEventListener("beforematch", () => reveal(cover));
  }
  tally();
  target();
  window.addEventListener("hashchange", target);
})();
