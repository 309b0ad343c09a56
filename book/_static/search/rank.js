/* Which sections answer a query, the best first.

   bnSearch.find(query) gives [{section, page, score, ...}, ...]; bnSearch.doubt(query, results)
   says whether that is an answer. Words are looked for in headings first, then
   in the text, then in code. A pasted error message has numbers and names of its own, so what counts
   for it is the longest run of words that it shares with a heading. Chinese has no spaces: it is cut
   into pairs of neighbouring characters. */
(function () {
  "use strict";
  const bn = (window.bnSearch = window.bnSearch || {});
  const KIND = { answer: 1.25, chinese: 0.6, message: 0.9, chapter: 1.1, term: 0.65, exercise: 0.6, reference: 0.75, api: 0.5 };
  const IN_CHINESE = { chinese: 1.8, term: 1.1 }; // for a query in Chinese
  const MESSAGE = 3; // words in a row that a query shares with the heading that it was pasted from
  // What error messages say and questions seldom do.
  const ERROR = new RegExp(
    "\\w(Error|Exception|Warning)\\b|Traceback|\\bgot\\b|\\bexpect(ed|s)?\\b|\\bmust\\b|\\bcannot\\b|\\bcan't\\b|" +
      "\\bmismatch\\b|\\bunexpected\\b|\\bmissing\\b|\\binvalid\\b|has no attribute|not (implemented|supported)|unsupported", "i");
  const ANSWERS = new Set(["message", "answer", "chinese"]); // pages that quote messages
  const CLASS = /^\s*(?:[\w.]*(?:Error|Exception|Warning):\s*)+/; // in front of a pasted message
  const ATTRIBUTE = /has no attribute ['"‘]?(\w+)/i;
  const HAN = /\p{Script=Han}/u;
  const TOKEN = /[\p{Script=Han}]+|[\p{L}\p{N}_]+/gu;
  const GREEK = { α: "alpha", β: "beta", γ: "gamma", ε: "epsilon", ϵ: "epsilon", μ: "mu", σ: "sigma" };
  // Words that say nothing about what is meant; a query of nothing else keeps them.
  const EMPTY = new Set(
    ("a an the of to in is it its and or for with on my i do does did how what why when where which " +
      "be are was can at by from as that this there not no if s t you your me get got").split(" "));

  /* American and British spelling, singular and plural are one word. */
  function stem(word) {
    word = word.replace(/iz(e|ed|es|er|ing|ation|ations)$/, "is$1");
    if (/^normalis/.test(word)) return "norm";
    if (word.length > 3) word = word.replace(/(?:sses)$/, "ss").replace(/([^s])s$/, "$1");
    return word;
  }

  /* The words of a text, in order. Numbers are all one word: those of a pasted message differ. */
  function tokens(text) {
    const found = [];
    const plain = text.normalize("NFKC").toLowerCase().replace(/[αβγεϵμσ]/g, (letter) => ` ${GREEK[letter]} `);
    for (const run of plain.match(TOKEN) || []) {
      if (HAN.test(run)) {
        if (run.length === 1) found.push(run);
        for (let i = 0; i + 1 < run.length; i++) found.push(run.slice(i, i + 2));
      } else if (/^\d+(d?)$/.test(run)) {
        found.push(run.endsWith("d") ? "0d" : "0"); // 4D input, 2D input
      } else {
        const compound = /^(batch|layer|group|instance)norm/.exec(run);
        if (compound) found.push(compound[1], "norm");
        if (run !== compound?.[0]) found.push(stem(run));
      }
    }
    return found;
  }

  function count(words) {
    const counts = new Map();
    for (const word of words) counts.set(word, (counts.get(word) || 0) + 1);
    return counts;
  }

  /* The most words in a row that two lists have in common. */
  function sharedRun(a, b) {
    let best = [];
    let previous = new Array(b.length + 1).fill(0);
    for (const word of a) {
      const row = new Array(b.length + 1).fill(0);
      for (let j = 0; j < b.length; j++) {
        if (word === b[j]) {
          row[j + 1] = previous[j] + 1;
          if (row[j + 1] > best.length) best = b.slice(j - row[j + 1] + 1, j + 1);
        }
      }
      previous = row;
    }
    return best;
  }

  /* The words of a list that say what is meant, each once. */
  const telling = (words) => [...new Set(words)].filter((word) => !EMPTY.has(word) && word !== "0");

  let prepared = null;

  function prepare() {
    const { pages, sections } = bn.index;
    const entries = sections.map((section) => {
      const page = pages[section.p];
      const first = section.h === page[1];
      const heading = tokens(section.h + (first ? " " + page[2] : ""));
      const text = tokens(section.t || "");
      const code = tokens(section.c || "");
      const index = section.i || [];
      const words = heading.concat(...index.map(tokens));
      const parts = section.h.split(/[()（）；;]/).concat(index).map((part) => part.trim().toLowerCase());
      return { section, page, heading, first, parts, inHeading: count(words), inText: count(text),
               headingLength: heading.filter((word) => !EMPTY.has(word)).length,
               index: index.map(tokens),
               inPage: count(tokens(page[1] + " " + page[2])), inCode: count(code), length: text.length };
    });
    const spread = new Map(); // word -> number of entries that have it
    for (const e of entries) {
      for (const word of new Set([...e.inHeading.keys(), ...e.inText.keys(), ...e.inCode.keys()])) {
        spread.set(word, (spread.get(word) || 0) + 1);
      }
    }
    const average = entries.reduce((sum, e) => sum + e.length, 0) / entries.length;
    return { entries, spread, average, words: [...spread.keys()] };
  }

  /* A word of the query, and the longer words of the book that begin with it. */
  function variants(word, words) {
    const found = [[word, 1]];
    if (word.length > 2 && !HAN.test(word)) {
      for (const longer of words) {
        if (longer !== word && longer.startsWith(word)) found.push([longer, 0.6]);
      }
    }
    return found;
  }

  bn.find = function (query) {
    prepared = prepared || prepare();
    const { entries, spread, average, words } = prepared;
    const asked = tokens(query.replace(CLASS, ""));
    const chinese = HAN.test(query);
    const whole = query.trim().toLowerCase();
    let wanted = telling(asked);
    if (!wanted.length) wanted = [...new Set(asked)];
    const terms = wanted.map((word) => {
      const forms = variants(word, words);
      const inEntries = Math.max(spread.get(word) || 0, 0.5);
      return { forms, weight: Math.log(1 + entries.length / inEntries) };
    });
    // Words that nearly every section has should not decide which sections are left.
    const all = terms.reduce((sum, term) => sum + term.weight ** 2, 0);
    const results = [];
    for (const e of entries) {
      let score = 0;
      let covered = 0;
      for (const { forms, weight } of terms) {
        let heading = 0, text = 0, code = 0, page = 0;
        for (const [form, part] of forms) {
          if (e.inHeading.has(form)) heading = Math.max(heading, part);
          if (e.inPage.has(form)) page = Math.max(page, part);
          if (e.inText.has(form)) {
            const n = e.inText.get(form);
            const k = 1.2 * (0.25 + (0.75 * e.length) / average);
            text = Math.max(text, (part * n * 2.2) / (n + k));
          }
          if (e.inCode.has(form)) code = Math.max(code, part);
        }
        const best = 3 * heading + text + 0.3 * code + 0.7 * page;
        if (best > 0) {
          score += weight * best;
          covered += weight ** 2 * (heading || text ? 1 : 0.5);
        }
      }
      if (!score) continue;
      score *= (covered / all) ** 2;
      const shared = [e.heading, ...e.index].map((words) => sharedRun(asked, words));
      const inARow = shared.reduce((a, b) => (b.length > a.length ? b : a));
      const run = inARow.length;
      if (run > MESSAGE) score += 4 * run * Math.min(1, run / 6);
      let kind = (chinese && IN_CHINESE[e.section.k]) || KIND[e.section.k] || 1;
      if (e.section.k === "message" && run >= MESSAGE) kind = 1.8;
      // A short heading that is asked for whole says more than a long one that has the words as well.
      score *= 1 + Math.min(run, e.headingLength) / Math.max(wanted.length, e.headingLength);
      if (e.parts.includes(whole)) score *= 1.6;
      if (e.first) score *= 1.1; // the page as a whole
      if (!e.length && !e.first) score *= 0.5; // a heading over other headings
      score *= kind;
      results.push({ section: e.section, page: e.page, score, inARow, covered: covered / all });
    }
    results.sort((a, b) => b.score - a.score);
    return results.filter((result) => result.score > 0.08 * results[0].score);
  };

  /* Whether a section has a name anywhere, in its code too. */
  const holds = ({ h, t = "", c = "", i = [] }, name) => [h, t, c, ...i].join(" ").toLowerCase().includes(name);

  /* Why the results may not be what was asked for; "" where nothing speaks against them.

     "message": the query reads like an error message, and no heading of a message shares more with
     it than words that many messages have. "words": no section has the words that say most. A list
     of the nearest sections looks like an answer either way, so the page says that it is none. */
  bn.doubt = function (query, results) {
    const words = telling(tokens(query.replace(CLASS, "")));
    const missing = ATTRIBUTE.exec(query)?.[1].toLowerCase();
    if (missing && !results.slice(0, 3).some(({ section }) => holds(section, missing))) return "message";
    if (words.length > 2 && ERROR.test(query) && !HAN.test(query)) {
      const enough = Math.min(3, 0.6 * words.length);
      const known = results.slice(0, 3).some(
        ({ section, inARow }) => ANSWERS.has(section.k) && telling(inARow).length >= enough);
      return known ? "" : "message";
    }
    const most = Math.max(0, ...results.slice(0, 5).map((result) => result.covered));
    // Half of the pairs in a Chinese query are no words, and stand nowhere.
    return words.length > 1 && most < (HAN.test(query) ? 0.12 : 0.4) ? "words" : "";
  };

  bn.tokens = tokens;
})();
