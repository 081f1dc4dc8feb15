"use strict";
const page = JSON.parse(document.getElementById("page").textContent);
const byId = id => document.getElementById(id);
const figureOf = id => byId("figure-" + id);
const make = (tag, properties, ...children) => {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
};

// The cubes: the rows of each choice of filters
const FILTERS = Object.keys(page.filters), HEADLINE = page.cards[0], LAST = page.months - 1;
const MONTHS = Array.from({ length: page.months }, (_, at) => at);
const cubes = page.cubes.map(({ sizes, steps, figures, scales }) => {
  const choices = new Map();
  let place = 0;
  steps.forEach((step, i) => {
    const row = {};
    let choice = place += step;
    for (const [digit, size] of [...sizes].reverse()) {
      row[digit] = choice % size;
      choice = Math.floor(choice / size);
    }
    for (const name in figures) row[name] = figures[name][i];
    choices.set(choice, choices.get(choice) ?? []).get(choice).push(row);
  });
  return { choices, scales, holds: new Set(sizes.map(([name]) => name)) };
});
const cubeOf = (figure, ranked = "month") => cubes.find(cube => figure in cube.scales && cube.holds.has(ranked));

function rowsOf(cube, chosen, [from, to, isCut]) {
  const digit = name => chosen[name] ?? page.filters[name].length;  // the last digit means all members
  const choice = FILTERS.reduce((place, name) => place * (page.filters[name].length + 1) + digit(name), 0);
  return (cube.choices.get(choice) ?? []).filter(row => row.month >= from && row.month <= to && !(isCut && row.month === to && row.left_out));
}

// A figure that counts customers counts each only once: in the first of these months in which they bought
function total(figure, chosen, months, isCounted = row => row.previous - 2 < months[0]) {
  const cube = cubeOf(figure), rows = rowsOf(cube, chosen, months).filter(isCounted);
  return rows.reduce((sum, row) => sum + row[figure], 0) / cube.scales[figure];
}
const value = ({ of, per }, chosen, months) =>
  per ? 100 * total(of, chosen, months) / (total(per, chosen, months) || NaN) : total(of, chosen, months);
const newcomers = months => total(page.people, state.chosen, months, row => row.previous === 0);

// The filters, and the period to compare with: a year before, since sales have seasons, or else the period before.
// An unfinished last month is compared with the same days, which only the months one or more years before can tell
const RECENT = [Math.max(0, LAST - 11), LAST];
const state = { months: RECENT, chosen: {} };
function before([from, to]) {
  const length = to - from + 1, years = Math.ceil(length / 12), isCut = page.isUnfinished && to === LAST;
  if (from >= 12 * years) return { months: [from - 12 * years, to - 12 * years, isCut], words: years === 1 ? "a year before" : `${years} years before` };
  if (from >= length && !isCut) return { months: [from - length, from - 1], words: length === 1 ? "the month before" : `the ${length} months before` };
  return null;
}

// Members with their figures of the period and of the compared one, the largest first
function ranking(names, now, past) {
  const all = now.reduce((sum, each) => sum + each, 0);
  return names.map((name, at) => ({ at, name, value: now[at], before: past ? past[at] : null, share: all ? 100 * now[at] / all : NaN }))
    .sort((a, b) => b.value - a.value || a.at - b.at);
}
const hasOthers = {};
function membersOf(name, then) {
  const names = page.filters[name], at = state.chosen[name];
  const figures = months => {
    const of = member => total(HEADLINE.of, { ...state.chosen, [name]: member }, months), each = names.map((_, member) => of(member));
    const rest = of(null) - each.reduce((sum, figure) => sum + figure, 0);
    return [...each, Math.round(1e4 * rest) / 1e4];
  };
  const rows = ranking([...names, "Others"], figures(state.months), then && figures(then.months));
  const others = rows.splice(rows.findIndex(row => row.at === names.length), 1)[0];
  for (const row of rows) row.isOn = (at ?? row.at) === row.at;
  return hasOthers[name] ? [...rows, { ...others, at: undefined, isOthers: true }] : rows;
}
function rankedOf(name, then) {
  const names = page.ranked[name], cube = cubeOf(HEADLINE.of, name);
  const figures = months => {
    const sums = names.map(() => 0);
    for (const row of rowsOf(cube, state.chosen, months)) sums[row[name]] += row[HEADLINE.of];
    return sums.map(sum => sum / cube.scales[HEADLINE.of]);
  };
  const all = total(HEADLINE.of, state.chosen, state.months);
  return ranking(names, figures(state.months), then && figures(then.months)).filter(row => row.value).slice(0, 8)
    .map(row => ({ ...row, at: undefined, isOn: true, share: all ? 100 * row.value / all : NaN }));
}

// Words
const digits = n => new Intl.NumberFormat("en", { minimumFractionDigits: n, maximumFractionDigits: n }).format;
const whole = digits(0), tenth = digits(1);
const percent = number => Number.isNaN(number) ? "–" : tenth(number) + " %";
const amount = number => (page.currency ? page.currency + " " : "") + whole(number);
const exact = number => HEADLINE.isAmount ? digits(2)(number) : whole(number);
const short = number => Math.abs(number) < 1e8 ? whole(number) : new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 }).format(number);
const onCard = (card, number) => card.per ? percent(number) : short(number);
const said = (card, number) => card.per ? percent(number) : card.isAmount ? amount(number) : whole(number);
const yearOf = at => Math.floor((page.start + at) / 12);
const monthOf = (at, style) => new Date(2000, (page.start + at) % 12, 1).toLocaleString("en", { month: style }) + " " + yearOf(at);
const isYear = ([from, to]) => to - from === 11 && (page.start + from) % 12 === 0;
const period = ([from, to]) => from === to ? monthOf(from, "long") : isYear([from, to]) ? `${yearOf(from)}` : `${monthOf(from, "short")} – ${monthOf(to, "short")}`;
function change(now, past, isShare = false) {
  const by = isShare ? now - past : 100 * (now / past - 1), size = tenth(Math.abs(by));
  if (!Number.isFinite(by)) return "";
  return size === "0.0" ? "unchanged" : `${size} ${isShare ? "points" : "%"} ${by > 0 ? "more" : "less"}`;
}
const arrow = words => (words.endsWith("more") ? "▲ " : words.endsWith("less") ? "▼ " : "") + words;

// Drawing: everything is drawn again after each change of a filter
const views = {};
function show(id, rows, head, cells) {
  const drawn = rows.map(row => row.isOthers ? { ...row, value: null, before: null } : row);  // its bar would dwarf the rest
  const ends = drawn.flatMap(row => [row.value ?? 0, row.before ?? 0]);
  views[id].signal("low", Math.min(0, ...ends)).signal("top", Math.max(...ends) || 1).data("rows", drawn).run();
  const line = (tag, texts) => make("tr", {}, ...texts.map((text, i) => make(i ? tag : "th", { textContent: text, scope: i ? "" : "row" })));
  figureOf(id).querySelector("details div").replaceChildren(
    make("table", {}, make("thead", {}, line("th", head)), make("tbody", {}, ...rows.map(row => line("td", cells(row))))));
  figureOf(id).querySelector(".chart").setAttribute("aria-label", rows.map(row => `${row.name} ${row.label}`).join(", "));
}

function sparkline(values, [from, to]) {
  const known = values.map(each => Number.isFinite(each) ? each : 0), low = Math.min(...known), range = Math.max(...known) - low || 1;
  const points = known.map((each, at) => `${100 * at / (LAST || 1)},${27 - 24 * (each - low) / range}`);
  const line = (part, color, width) => `<polyline points="${part.join(" ")}" stroke="var(--${color})" stroke-width="${width}"/>`;
  const chosen = points.slice(from, to + 1), isDot = chosen.length === 1;
  return `<svg viewBox="0 0 100 30" preserveAspectRatio="none" aria-hidden="true">${line(points, "pale", 1.2)}`
    + `${line(isDot ? [...chosen, ...chosen] : chosen, "accent", isDot ? 6 : 1.6)}</svg>`;
}

function drawHead(then, best) {
  const { months, chosen } = state, now = value(HEADLINE, chosen, months);
  const grown = then ? change(now, value(HEADLINE, chosen, then.months), HEADLINE.per) : "";
  const words = FILTERS.filter(name => name in chosen).map(name => page.filters[name][chosen[name]]);
  const past = then && (then.months[2] ? "the same days of " : "") + period(then.months);
  byId("title").textContent = `${page.title}, ${period(months)}`;
  const standfirst = (words.length ? `${words.join(", ")}: ${HEADLINE.name.toLowerCase()}` : HEADLINE.name)
    + ` of ${said(HEADLINE, now)}` + (!grown ? "." : grown === "unchanged" ? `, as in ${past}.` : `, ${grown} than in ${past}.`)
    + (best.length ? ` The largest ${best.slice(0, 2).map(([name, row]) => `${name.replaceAll("_", " ")} is ${row.name}, with ${percent(row.share)}`).join("; the largest ")}.` : "");
  byId("standfirst").textContent = standfirst.replaceAll(" %", "\u00a0%");
  byId("cards").replaceChildren(...page.cards.map(card => {
    const [figure, past] = [months, then?.months].map(range => range ? value(card, chosen, range) : NaN);
    const node = make("div", {}, make("dt", { textContent: card.isAmount && !card.per && page.currency ? `${card.name}, ${page.currency}` : card.name }),
      make("dd", { className: "figure" }, make("data", { value: figure, textContent: onCard(card, figure) })),
      make("dd", { className: "change" }, arrow(change(figure, past, card.per)),
        make("span", {}, ...(then ? [make("data", { value: past, textContent: onCard(card, past) }), " " + then.words] : ["nothing before to compare"]))));
    if (LAST) node.insertAdjacentHTML("beforeend", sparkline(MONTHS.map(at => value(card, chosen, [at, at])), months));
    return node;
  }));
}

function drawMonths() {
  const isOn = at => at >= state.months[0] && at <= state.months[1], name = HEADLINE.name.toLowerCase();
  const each = MONTHS.map(at => total(HEADLINE.of, state.chosen, [at, at]));
  show("months", each.map((figure, at) => {
    const past = at < 12 ? null : page.isUnfinished && at === LAST ? total(HEADLINE.of, state.chosen, [at - 12, at - 12, true]) : each[at - 12], grown = past === null ? "" : change(figure, past);
    const tip = `${monthOf(at, "long")}\n${name} ${amount(figure)}` + (past === null ? "" : `\na year before ${amount(past)}\n${arrow(grown)}`);
    return { month: at, name: monthOf(at, "short"), label: whole(figure), value: figure, before: past, grown, isOn: isOn(at), tip };
  }), ["month", name, "a year before", "change"], row => [row.name, exact(row.value), row.before === null ? "" : exact(row.before), row.grown]);
  if (!page.people) return;
  show("people", MONTHS.map(at => {
    const all = total(page.people, state.chosen, [at, at]), fresh = newcomers([at, at]);
    return { month: at, name: monthOf(at, "short"), label: `${fresh} new of ${all}`, value: all, foot: all - fresh, fresh, isOn: isOn(at),
      tip: `${monthOf(at, "long")}\n${whole(fresh)} new\n${whole(all - fresh)} returning` };
  }), ["month", "new", "returning"], row => [row.name, whole(row.fresh), whole(row.foot)]);
  const fresh = newcomers(state.months);
  figureOf("people").querySelector("figcaption p").textContent =
    `Of ${whole(total(page.people, state.chosen, state.months))} ${page.people}, ${fresh ? whole(fresh) : "none"} bought for the first time.`;
}

function drawBars(name, rows, then) {
  rows.forEach((row, rank) => Object.assign(row, { rank, label: whole(row.value),
    tip: `${row.name}\n${HEADLINE.name.toLowerCase()} ${amount(row.value)}, ${percent(row.share)}` + (then ? `\n${then.words} ${amount(row.before)}` : "") }));
  show(name, rows, [name, HEADLINE.name.toLowerCase(), "share", then ? then.words : ""],
    row => [row.name, exact(row.value), percent(row.share), then ? exact(row.before) : ""]);
  figureOf(name).querySelector(".line").textContent = then ? `Line: ${then.words}.` : "";
}

function drawControls() {
  const { months, chosen } = state;
  for (const button of byId("years").children) button.setAttribute("aria-pressed", button.value === months.join());
  [byId("from").value, byId("to").value] = months;
  for (const name of FILTERS) {
    byId("choose-" + name).value = chosen[name] ?? "";
    byId("choose-" + name).classList.toggle("set", name in chosen);
  }
  const chip = (text, ariaLabel, change, className = "") =>
    make("button", { type: "button", textContent: text, ariaLabel, className, onclick: () => { set(change); byId("from").focus(); } });
  const without = name => Object.fromEntries(Object.entries(chosen).filter(([each]) => each !== name));
  const chips = FILTERS.filter(name => name in chosen).map(name => [page.filters[name][chosen[name]], { chosen: without(name) }])
    .map(([member, change]) => chip(`${member}  ×`, `Remove the filter ${member}`, change));
  if (months.join() !== RECENT.join()) chips.unshift(chip(`${period(months)}  ×`, "Back to the latest months", { months: RECENT }));
  if (chips.length) chips.push(chip("Clear all", "Clear all filters", { months: RECENT, chosen: {} }, "clear"));
  byId("chips").replaceChildren(...chips);
}

function set(change) {
  Object.assign(state, change);
  const then = before(state.months), rows = Object.fromEntries(FILTERS.map(name => [name, membersOf(name, then)]));
  const best = FILTERS.filter(name => !(name in state.chosen)).map(name => [name, rows[name][0]]).filter(([, row]) => row.value > 0);
  drawHead(then, best);
  drawMonths();
  for (const name of FILTERS) drawBars(name, rows[name], then);
  for (const name in page.ranked) drawBars(name, rankedOf(name, then), then);
  drawControls();
}
const choose = (name, at) => set({ chosen: Object.fromEntries(FILTERS.map(each => [each, each === name ? at : state.chosen[each]]).filter(([, member]) => member !== undefined)) });

// The page: charts for the pointer, and controls that do the same for the keyboard
function prepare(figure) {
  const id = figure.id.replace("figure-", ""), place = figure.querySelector(".chart"), tip = byId("tip"), isBars = figure.dataset.chart === "bars";
  const view = views[id] = new vega.View(vega.parse(page.charts[figure.dataset.chart]), { renderer: "svg", container: place, tooltip: () => {} });
  if (!isBars) view.signal("start", page.start);
  let anchor, isDrag = false;
  view.addEventListener("pointerdown", (_, item) => { anchor = item?.datum?.month; isDrag = false; });
  view.addEventListener("pointermove", (event, item) => {
    const at = item?.datum?.month;
    tip.textContent = item?.datum?.tip ?? "";
    tip.hidden = !tip.textContent;
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 4)) + "px";
    tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 12) + "px";
    if (!event.buttons || anchor === undefined || at === undefined || (at === anchor && !isDrag)) return;
    isDrag = true;
    set({ months: [Math.min(anchor, at), Math.max(anchor, at)] });
  });
  view.addEventListener("click", (_, item) => {
    const { month, at } = item?.datum ?? {};
    if (month !== undefined && !isDrag) set({ months: state.months.every(each => each === month) ? RECENT : [month, month] });
    else if (at !== undefined) choose(id, state.chosen[id] === at ? undefined : at);
  });
  place.addEventListener("pointerleave", () => { tip.hidden = true; });
}

function resize(isPaper) {
  document.body.classList.toggle("paper", isPaper);
  views.months.height(isPaper ? 190 : 230);
  for (const id in views) {
    const { clientWidth } = figureOf(id).querySelector(".chart");
    views[id].width(clientWidth).run();
  }
}

const years = MONTHS.filter(at => at === 0 || (page.start + at) % 12 === 0).map(at => [yearOf(at), at, Math.min(LAST, at + 11 - (page.start + at) % 12)]);
const ranges = years.length > 1 ? [["All", 0, LAST], ...years] : years;
if (LAST > 11 && !isYear(RECENT)) ranges.push(["Last 12 months", ...RECENT]);
byId("years").append(...ranges.map(([textContent, from, to]) =>
  make("button", { type: "button", textContent, value: `${from},${to}`, onclick: () => set({ months: [from, to] }) })));
for (const id of ["from", "to"]) {
  byId(id).append(...MONTHS.map(at => new Option(monthOf(at, "short"), at)));
  byId(id).onchange = event => {
    const at = +event.target.value, [from, to] = state.months;
    set({ months: id === "from" ? [at, Math.max(at, to)] : [Math.min(from, at), at] });
  };
}
for (const name of FILTERS) {
  byId("choose-" + name).append(...page.filters[name].map((member, at) => new Option(member, at)));
  byId("choose-" + name).onchange = ({ target }) => choose(name, target.value === "" ? undefined : +target.value);
  hasOthers[name] = MONTHS.some(at => {
    const each = page.filters[name].reduce((sum, _, member) => sum + total(HEADLINE.of, { [name]: member }, [at, at]), 0);
    return Math.abs(total(HEADLINE.of, {}, [at, at]) - each) > 5e-5;
  });
}
for (const name in page.ranked) {
  const all = rowsOf(cubeOf(HEADLINE.of, name), {}, [0, LAST]).reduce((sum, row) => sum + row[HEADLINE.of], 0) / cubeOf(HEADLINE.of).scales[HEADLINE.of];
  const isWhole = Math.abs(all - total(HEADLINE.of, {}, [0, LAST])) < 5e-5;
  figureOf(name).querySelector(".of").textContent = isWhole ? "" : `Of the ${page.ranked[name].length} with the most in all.`;
}
document.querySelectorAll("figure").forEach(prepare);
resize(false);
set({});
resize(false);
addEventListener("resize", () => resize(false));
addEventListener("beforeprint", () => resize(true));
addEventListener("afterprint", () => resize(false));
