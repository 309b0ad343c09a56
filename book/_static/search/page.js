/* The page of results: reads ?q= from the address, asks bnSearch.find, and shows the sections. */
(function () {
  "use strict";
  const bn = window.bnSearch;
  const MOST = 30; // results
  const PER_PAGE = 4;
  const WIDTH = 160; // characters of a snippet

  function make(tag, text, className) {
    const element = document.createElement(tag);
    element.textContent = text;
    if (className) element.className = className;
    return element;
  }

  /* The piece of the text that has most of the words asked for. */
  function snippet(text, query) {
    const wanted = bn.tokens(query).filter((word) => word.length > 1 || /\p{Script=Han}/u.test(word));
    const low = text.toLowerCase();
    const places = wanted.map((word) => low.indexOf(word)).filter((place) => place >= 0);
    let start = 0;
    let most = 0;
    for (const place of places) {
      const near = places.filter((other) => other >= place && other < place + WIDTH).length;
      if (near > most) [most, start] = [near, place];
    }
    start = Math.max(0, start - 30);
    if (start) start = text.indexOf(" ", start) + 1 || start;
    if (text.length <= start + WIDTH) return (start ? "… " : "") + text.slice(start);
    const end = text.lastIndexOf(" ", start + WIDTH);
    return (start ? "… " : "") + text.slice(start, end > start ? end : start + WIDTH) + " …";
  }

  // What the page says, in the language of the query; {n} is the number of sections.
  const SAYS = {
    en: {
      found: "{n} sections found.", more: "{n} or more sections found.",
      nothing: "Nothing found. Try fewer or other words; for an error message, its first words.",
      message: "The book does not quote this message. The sections below only share words with it. " +
        "Try its first words without names and numbers, or look through all messages: ",
      words: "No section has most of these words. The nearest:",
      link: "Error messages",
    },
    zh: {
      found: "找到 {n} 个小节。", more: "找到 {n} 个以上的小节。",
      nothing: "没有找到。请换一个词或少用几个词；报错信息请粘贴英文原文的开头。",
      message: "本书没有收录这条报错。下面的小节只是含有相同的词。请只用报错的开头（去掉名称和数字），或浏览：",
      words: "没有哪个小节包含其中大部分的词。最接近的是：",
      link: "报错与故障排查",
    },
  };
  const MESSAGES = { en: "book/errors.html", zh: "book/trouble_zh.html" };

  function show(query) {
    const place = document.getElementById("search-results");
    place.replaceChildren();
    if (!query.trim()) return;
    const results = bn.find(query);
    const shown = new Map();
    const list = make("ul", "", "search");
    for (const { section, page } of results) {
      const before = shown.get(page[0]) || 0;
      if (list.children.length >= MOST) break;
      if (before >= PER_PAGE) continue;
      shown.set(page[0], before + 1);
      const item = document.createElement("li");
      const link = make("a", section.h || page[1]);
      link.href = page[0] + (section.h === page[1] ? "" : "#" + section.a);
      item.append(link);
      const where = { term: "Glossary", api: "API" }[section.k] || page[2] || page[1];
      if (section.h !== page[1] || section.k !== "chapter") item.append(make("span", where, "search-where"));
      if (section.t) item.append(make("p", snippet(section.t, query), "context"));
      list.append(item);
    }
    const number = list.children.length;
    const language = /\p{Script=Han}/u.test(query) ? "zh" : "en";
    const says = SAYS[language];
    const doubt = number ? bn.doubt(query, results) : "nothing";
    const words = says[doubt] || (number === MOST ? says.more : says.found).replace("{n}", number);
    const status = make("p", words, "search-summary");
    status.setAttribute("role", "status");
    if (language === "zh") status.lang = "zh";
    if (doubt === "message" || doubt === "nothing") {
      const link = make("a", says.link);
      link.href = MESSAGES[language];
      status.append(" ", link);
    }
    place.append(status, list);
  }

  const query = new URLSearchParams(window.location.search).get("q") || "";
  for (const input of document.querySelectorAll('form.bd-search input[name="q"]')) input.value = query;
  show(query);
})();
