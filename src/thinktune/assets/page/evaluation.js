/* The theme switch, and the browser of questions: filters, search, keys, and cards as one scrolls. */
const PAGE = 50; // cards drawn at a time
const FILTERS = {
  all: ["all", "all", () => true],
  fixed: ["fixed", "", (q) => q.outcome === "fixed"],
  broken: ["broken", "", (q) => q.outcome === "broken"],
  wrong: ["still wrong", "wrong", (q) => q.outcome === "wrong"],
  right: ["still right", "right", (q) => q.outcome === "right"],
  unfinished: ["unfinished", "unfinished", (q) => q.unfinished.length > 0],
  ungraded: ["not graded", "not graded", (q) => q.outcome === "ungraded"],
}; // name with two sides, name with one, which questions
const root = document.documentElement;
const $ = (id) => document.getElementById(id);

/* ---- theme ---- */
const KEPT = "thinktune-theme";
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
try {
  const kept = localStorage.getItem(KEPT);
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
} catch { /* a page opened from a file may keep nothing */ }
const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : prefersDark.matches);

function startTheme() {
  const button = $("theme");
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  button.hidden = false;
  button.onclick = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem(KEPT, root.dataset.theme); } catch { /* as above */ }
    show();
  };
  prefersDark.addEventListener("change", show);
  show();
}

/* ---- all questions ---- */
function startBrowser() {
  const { sides, questions } = JSON.parse($("data").textContent);
  $("data").remove(); // the page need not hold it twice
  const names = Object.fromEntries(Object.entries(FILTERS).map(([key, of]) => [key, of[sides.length > 1 ? 0 : 1]]));
  const tasks = [...new Set(questions.map((question) => question.task))];
  const look = { terms: [], unfolded: false, names };
  const state = { filter: "all", task: null, shown: [] };
  const cards = $("cards");
  const texts = new Array(questions.length); // lower-cased, each made when first sought in

  function textOf(n) {
    if (texts[n] === undefined) {
      const of = questions[n];
      const samples = Object.values(of.sides).flat();
      const written = samples.flatMap((sample) => [sample.reasoning, sample.answer, ...sample.notes]);
      texts[n] = [of.question, of.reference || "", of.id, ...written].join("\n").toLowerCase();
    }
    return texts[n];
  }

  function readAhead(from) {
    const until = performance.now() + 12;
    while (from < questions.length && performance.now() < until) textOf(from++);
    if (from < questions.length) setTimeout(readAhead, 0, from);
  }

  function draw() {
    const next = state.shown.slice(cards.children.length, cards.children.length + PAGE);
    cards.append(...next.map((question) => cardOf(question, sides, look)));
    $("more").hidden = cards.children.length >= state.shown.length;
  }

  function group(box, entries, isPressed, press) {
    if (box.children.length !== entries.length)
      box.replaceChildren(...entries.map(() => Object.assign(make("button"), { type: "button" })));
    entries.forEach(([key, name, number], n) => {
      const button = box.children[n];
      button.replaceChildren(name, make("small", "", number.toLocaleString("en")));
      button.setAttribute("aria-pressed", String(isPressed(key)));
      button.onclick = () => { press(key); refresh(); };
    });
  }

  function refresh() {
    const found = questions.filter((_, n) => look.terms.every((term) => textOf(n).includes(term)));
    const ofTask = found.filter((question) => state.task === null || question.task === state.task);
    const fits = FILTERS[state.filter][2];
    const outcomes = Object.entries(FILTERS)
      .filter(([key, of]) => names[key] && (key !== "ungraded" || questions.some(of[2])))
      .map(([key, of]) => [key, names[key], ofTask.filter(of[2]).length]);
    group($("filters"), outcomes, (key) => key === state.filter, (key) => { state.filter = key; });
    if (tasks.length > 1) {
      const those = [null, ...tasks].map((task) =>
        [task, task ?? "every task", found.filter((q) => fits(q) && (task === null || q.task === task)).length]);
      group($("by-task"), those, (task) => task === state.task, (task) => { state.task = task; });
    }
    state.shown = ofTask.filter(fits);
    const [shown, all] = [state.shown.length, questions.length].map((of) => of.toLocaleString("en"));
    $("count").textContent = shown === all ? `${all} questions` : `${shown} of ${all} questions`;
    if (cards.getBoundingClientRect().top < 0) $("questions").scrollIntoView();
    cards.replaceChildren();
    draw();
  }

  function step(by) {
    const open = document.activeElement?.closest(".question") || cards.querySelector(".current");
    if (by > 0 && open && !open.nextElementSibling) draw();
    const next = open ? (by > 0 ? open.nextElementSibling : open.previousElementSibling) : cards.firstElementChild;
    if (!next) return;
    open?.classList.remove("current");
    next.classList.add("current");
    const tools = document.querySelector(".tools");
    const stuck = getComputedStyle(tools).position === "sticky" ? tools.offsetHeight : 0;
    root.style.setProperty("--stuck", `${stuck}px`);
    next.focus({ preventScroll: true });
    const show = () => next.scrollIntoView();
    show();
    requestAnimationFrame(show); // cards above it may have got their true heights only now
  }

  $("search").addEventListener("focus", () => readAhead(0), { once: true });
  $("search").addEventListener("input", (event) => {
    look.terms = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    refresh();
  });
  $("unfold").onclick = () => {
    look.unfolded = !look.unfolded;
    $("unfold").setAttribute("aria-pressed", String(look.unfolded));
    cards.querySelectorAll(".body details").forEach((fold) => { fold.open = look.unfolded; });
  };
  $("more").onclick = draw;
  // Ahead of a reader who comes from above; one who jumped past the cards is not pushed away.
  new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && draw(), { rootMargin: "0px 0px 1200px" })
    .observe($("more"));
  document.querySelectorAll("a[data-filter]").forEach((link) => link.addEventListener("click", () => {
    Object.assign(state, { filter: link.dataset.filter, task: tasks.length > 1 ? link.dataset.task : null });
    refresh();
  }));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && event.target === $("search")) $("search").blur();
    if (/^(input|textarea|select)$/i.test(event.target.tagName)) return;
    if (event.key === "/") {
      event.preventDefault();
      $("search").focus();
    } else if (event.key === "j" || event.key === "k") step(event.key === "j" ? 1 : -1);
  });
  $("browser").hidden = false;
  refresh();
}

document.addEventListener("DOMContentLoaded", () => {
  startTheme();
  if ($("browser")) startBrowser();
});
