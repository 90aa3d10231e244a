/* One question as a card. What models wrote is only ever set as text, never as HTML. */
const MAX_COMPARED = 150; // words of an answer, above which differing words are not marked
const LONG = 1600; // characters of an answer, above which it is folded
const WORD = /[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Hangul}\p{sc=Thai}]|[\p{L}\p{N}_]+(?:['’.][\p{L}\p{N}_]+)*/gu;

function make(tag, kind, ...inside) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.append(...inside);
  return element;
}

const numWords = (text) => (text.match(WORD) || []).length;
const plain = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Text with the terms that are sought marked in it. */
function withHits(element, text, terms) {
  if (!terms.length) {
    element.textContent = text;
    return element;
  }
  const parts = text.split(new RegExp(`(${terms.map(plain).join("|")})`, "giu"));
  parts.forEach((part, n) => part && element.append(n % 2 ? make("mark", "", part) : part));
  return element;
}

/** For each of two lists of words, which of them are in no longest common subsequence. */
function differing(a, b) {
  const width = b.length + 1;
  const best = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      best[i * width + j] = a[i] === b[j]
        ? best[(i + 1) * width + j + 1] + 1
        : Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
  const only = [a.map(() => true), b.map(() => true)];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) only[0][i++] = only[1][j++] = false;
    else if (best[(i + 1) * width + j] >= best[i * width + j + 1]) i++;
    else j++;
  }
  return { only, common: best[0] };
}

/** Pieces of two answers, the differing words marked; null where that would say nothing. */
function compared(answers) {
  if (answers.length !== 2 || answers[0] === answers[1]) return null;
  if (Math.max(...answers.map((text) => text.length)) > 12 * MAX_COMPARED) return null;
  const words = answers.map((text) => text.match(WORD) || []);
  const sizes = words.map((of) => of.length);
  if (!Math.min(...sizes) || Math.max(...sizes) > MAX_COMPARED) return null;
  const { only, common } = differing(...words.map((of) => of.map((word) => word.toLowerCase())));
  if (common < Math.max(...sizes) / 2) return null;
  return answers.map((text, side) => {
    const pieces = [];
    let end = 0;
    let place = 0;
    for (const { 0: word, index } of text.matchAll(WORD)) {
      pieces.push(text.slice(end, index), only[side][place++] ? make("mark", "changed", word) : word);
      end = index + word.length;
    }
    return [...pieces, text.slice(end)];
  });
}

function stateOf(sample) {
  const cut = sample.truncated ? ", cut at the token limit" : "";
  if (!sample.closed) return ["open", `… unfinished${cut}`];
  if (sample.right === null) return ["", `not graded${cut}`];
  return sample.right ? ["yes", `✓ right${cut}`] : ["no", `✗ wrong${cut}`];
}

function reasoningOf(sample, look) {
  const words = numWords(sample.reasoning);
  if (!words) return make("p", "notes", "No reasoning.");
  const hit = look.terms.some((term) => sample.reasoning.toLowerCase().includes(term));
  const summary = make("summary", "", `Reasoning, ${words.toLocaleString("en")} words`);
  if (hit) summary.append(" ", make("mark", "", "found here"));
  const fold = make("details", "", summary);
  const unfold = () => {
    if (fold.open && fold.children.length < 2)
      fold.append(withHits(make("div", "text"), sample.reasoning, look.terms));
  };
  fold.addEventListener("toggle", unfold);
  fold.open = look.unfolded;
  return fold;
}

function answerOf(sample, look, pieces) {
  const text = sample.answer.trim();
  if (!text) return [make("p", "answer dim", sample.closed ? "Empty answer." : "No answer: the reasoning was never closed.")];
  const answer = make("div", "text answer");
  if (pieces) answer.append(...pieces);
  else withHits(answer, text, look.terms);
  if (text.length <= LONG) return [answer];
  answer.classList.add("long");
  const all = make("button", "", "Show the whole answer");
  all.type = "button";
  all.onclick = () => { answer.classList.remove("long"); all.remove(); };
  return [answer, all];
}

function bodyOf(sample, look, pieces) {
  const notes = [...sample.notes];
  if (!notes.length && !sample.right && sample.found.length) notes.push(`gives ${sample.found.join(", ")}`);
  const body = [reasoningOf(sample, look), ...answerOf(sample, look, pieces)];
  if (notes.length) body.push(withHits(make("p", "notes"), notes.join(" · "), look.terms));
  return body;
}

function sideOf(side, place, samples, look, pieces) {
  const head = make("h4", "", make("span", "", side.title));
  const told = make("span", "told-of");
  const body = make("div", "body");
  const pane = make("section", `side s${place}`, head);
  const show = (n) => {
    const [kind, state] = stateOf(samples[n]);
    told.replaceChildren(make("span", `state ${kind}`, state), " ",
      make("small", "", `${samples[n].num_tokens.toLocaleString("en")} tokens`));
    body.replaceChildren(...bodyOf(samples[n], look, pieces));
  };
  if (!samples.length) {
    pane.append(make("p", "dim", "Not asked."));
    return pane;
  }
  if (samples.length > 1) {
    const rights = samples.filter((sample) => sample.right).length;
    head.append(make("span", "rights", `${rights} of ${samples.length} right`));
    const row = make("div", "samples");
    row.setAttribute("role", "group");
    row.setAttribute("aria-label", `Samples, ${side.title}`);
    samples.forEach((sample, n) => {
      const [, told] = stateOf(sample);
      const sign = /^[✓✗…]/.test(told) ? told[0] : "";
      const button = make("button", "", `${n + 1} ${sign}`);
      button.type = "button";
      button.title = told;
      button.setAttribute("aria-label", `sample ${n + 1}: ${told}`);
      button.onclick = () => {
        row.querySelectorAll("button").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
        show(n);
      };
      button.setAttribute("aria-pressed", String(n === 0));
      row.append(button);
    });
    row.append(told);
    pane.append(row);
  } else head.append(told);
  show(0);
  pane.append(body);
  return pane;
}

function contextOf(question) {
  const turns = [...(question.system ? [{ role: "system", content: question.system }] : []), ...question.earlier];
  if (!turns.length) return [];
  const fold = make("details", "context", make("summary", "", `What came before (${turns.length})`));
  turns.forEach((turn) => fold.append(make("div", "text", make("b", "", `${turn.role}: `), turn.content)));
  return [fold];
}

function cardOf(question, sides, look) {
  const top = make("div", "top", make("span", `tag ${question.outcome}`, look.names[question.outcome] || question.outcome));
  if (question.reference !== null)
    top.append(make("span", "reference", "reference: ", withHits(make("b", ""), question.reference, look.terms)));
  top.append(withHits(make("h3", ""), question.id, look.terms));
  const given = sides.map((side) => question.sides[side.key] || []);
  const single = !look.terms.length && given.every((samples) => samples.length === 1);
  const pieces = single && compared(given.map((samples) => samples[0].answer.trim()));
  const panes = sides.map((side, n) => sideOf(side, n, given[n], look, pieces && pieces[n]));
  const asked = withHits(make("p", "asked text"), question.question, look.terms);
  const card = make("article", "card question", top, asked, ...contextOf(question), make("div", "sides", ...panes));
  card.tabIndex = -1;
  card.setAttribute("aria-label", `Question ${question.id}`);
  return card;
}
