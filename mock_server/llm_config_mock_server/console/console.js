// The console: shows what the admin interface tells, and switches what it can switch.
// All text goes in through textContent, so nothing that a client sent can become markup.

const ADMIN = "/api/v1/admin";
const KEPT = 500; // requests shown
const RULES_SHOWN = 50;
const BEATS = 30; // latest outcomes drawn per endpoint
const LOST_MILLISECONDS = 1000; // between two tries to reach a server that is gone
const HEALTHY = "healthy";

const SWITCHES = [
  { id: "unavailable", label: "Service unavailable", note: "503, Retry-After: 1", steps: [{ do: "error", code: "SERVICE_UNAVAILABLE", retry_after: 1 }] },
  { id: "limited", label: "Rate limit exceeded", note: "429, Retry-After: 2", steps: [{ do: "error", code: "RATE_LIMIT_EXCEEDED", retry_after: 2 }] },
  { id: "storage", label: "Storage error", note: "500, retriable", steps: [{ do: "error", code: "STORAGE_ERROR" }] },
  { id: "reset", label: "Connection reset", note: "RST instead of a reply", steps: [{ do: "reset" }] },
  { id: "hang", label: "Hanging server", note: "takes the request, never answers", steps: [{ do: "hang" }] },
  { id: "slow", label: "Slow server", note: "two seconds before every reply", steps: [{ do: "latency", before: 2 }] },
  { id: "malformed", label: "Malformed JSON", note: "half of the body, as if it were all", steps: [{ do: "malformed" }] },
  { id: "truncated", label: "Truncated reply", note: "closed in the middle of the body", steps: [{ do: "truncate" }] },
  { id: "proxy", label: "Proxy’s error page", note: "502, HTML", steps: [{ do: "html" }] },
  { id: "lost", label: "Write done, answer lost", note: "reset after the effect", steps: [{ do: "reset", after_effect: true }] },
];

const at = (id) => document.getElementById(id);
let token = "";

/** Make an element; children are nodes or texts. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

// --- Asking the server ----------------------------------------------------------------------------

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(method, path, body, headers = {}) {
  const wanted = { ...headers };
  if (token) wanted.Authorization = `Bearer ${token}`;
  if (body !== undefined) wanted["Content-Type"] = "application/json";
  const reply = await fetch(ADMIN + path, { method, headers: wanted, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store" });
  if (reply.ok) return reply;
  let message = `${reply.status} ${reply.statusText}`;
  try {
    message = (await reply.json()).error.message;
  } catch { /* the status has to do */ }
  throw new Refused(reply.status, message);
}

/** Do what a control asks for, and say what went wrong where it does. */
async function act(method, path, body) {
  try {
    await ask(method, path, body);
    at("notice").hidden = true;
    return true;
  } catch (error) {
    complain(error.message);
    return false;
  }
}

function complain(message) {
  at("notice").textContent = message;
  at("notice").hidden = false;
}

// --- Server-sent events ---------------------------------------------------------------------------

let source = null;
let cursor = ""; // of the last event, for a source that is made anew

async function follow() {
  source?.close();
  const query = new URLSearchParams();
  try {
    // An EventSource cannot send a token: from another machine, it comes with a ticket for it.
    if (token) query.set("ticket", (await (await ask("POST", "/events/tickets")).json()).ticket);
    if (cursor) query.set("last_event_id", cursor);
  } catch (error) {
    return comeBack(error);
  }
  source = new EventSource(`${ADMIN}/events?${query}`);
  source.addEventListener("open", () => link("live"));
  source.addEventListener("state", (event) => { cursor = event.lastEventId; showState(JSON.parse(event.data)); });
  source.addEventListener("request", (event) => { cursor = event.lastEventId; takeRequest(JSON.parse(event.data)); });
  source.addEventListener("error", async () => {
    link("lost");
    if (source.readyState !== EventSource.CLOSED) return; // it comes back by itself
    try { await ask("GET", "/stats"); } catch (error) { return comeBack(error); }
    comeBack();
  });
}

/** Listen again: at once with another token where one is wanted, else after a while. */
async function comeBack(error) {
  if (error instanceof Refused && (error.status === 401 || error.status === 403)) await askForToken(error.message);
  else {
    link("lost");
    await new Promise((done) => setTimeout(done, LOST_MILLISECONDS));
  }
  follow();
}

function link(state) {
  const shown = { live: "live", lost: "no connection" }[state];
  if (at("link").dataset.state === state) return;
  at("link").dataset.state = state;
  at("link").textContent = shown;
}

function askForToken(why) {
  const dialog = at("token-dialog");
  at("token-why").textContent = `${why}. It is kept in this page only.`;
  dialog.showModal();
  return new Promise((done) => dialog.addEventListener("close", () => { token = at("token").value.trim(); done(); }, { once: true }));
}

// --- State: faults, chaos, components ---------------------------------------------------------------

let state = null;

function showState(fresh) {
  const before = state;
  state = fresh;
  if (before?.instance !== fresh.instance) { // another server, which came back in the place of the first
    requests.clear();
    seen.clear();
    known = fresh.requests.last ?? 0;
  }
  at("profile").textContent = fresh.profile;
  at("seed").textContent = fresh.seed;
  tile("requests-kept", fresh.requests.kept, false);
  const failed = Object.entries(fresh.requests.by_status).reduce((sum, [status, count]) => sum + (status === "none" || status >= 500 ? count : 0), 0);
  tile("requests-failed", failed, failed > 0);
  const armed = fresh.faults.filter((rule) => !rule.is_spent);
  tile("faults-count", armed.length, armed.length > 0);
  const unwell = Object.values(fresh.conditions).filter(Boolean).length;
  tile("unwell-count", unwell, unwell > 0);
  for (const choice of SWITCHES) at(`switch-${choice.id}`).setAttribute("aria-checked", String(Boolean(ruleOf(choice))));
  at("chaos").setAttribute("aria-checked", String(fresh.chaos.enabled));
  if (fresh.chaos.enabled && document.activeElement !== at("chaos-rate")) showRate(Math.round(fresh.chaos.rate * 100));
  drawRules(fresh.faults);
  drawComponents(fresh.conditions);
  const first = fresh.requests.first ?? Infinity;
  if (!fresh.requests.kept || (requests.size && first > Math.min(...requests.keys()))) {
    for (const number of [...requests.keys()]) if (number < first) requests.delete(number);
  }
  drawSoon();
  if (before?.instance !== fresh.instance || before.changes !== fresh.changes) loadEntries();
  if (fresh.defects.length) complain(`The server itself failed: ${fresh.defects[0]}`);
}

function tile(id, count, alarm) {
  at(id).textContent = count.toLocaleString("en");
  at(id).parentElement.classList.toggle("alarm", alarm);
}

const ruleOf = (choice) => state?.faults.find((rule) => rule.name === `console:${choice.id}`);

// Rows are kept, not made anew: a button that has the focus must not vanish under it.
const ruleRows = new Map();

function drawRules(rules) {
  at("rules-empty").hidden = rules.length > 0;
  const shown = rules.slice(0, RULES_SHOWN);
  const numbers = new Set(shown.map((rule) => rule.number));
  for (const [number, row] of ruleRows) {
    if (numbers.has(number)) continue;
    row.remove();
    ruleRows.delete(number);
  }
  shown.forEach((rule, place) => {
    if (!ruleRows.has(rule.number)) {
      const row = ruleRow(rule);
      ruleRows.set(rule.number, row);
      at("rules").insertBefore(row, at("rules").children[place] ?? null);
    }
    const details = [rule.match];
    if (rule.probability < 1) details.push(`${Math.round(rule.probability * 100)} % of them`);
    details.push(rule.is_spent ? "spent" : `hit ${rule.fired}×`);
    const row = ruleRows.get(rule.number);
    row.classList.toggle("spent", rule.is_spent);
    row.querySelector("small").textContent = details.join(" · ");
  });
}

function ruleRow(rule) {
  const what = rule.steps.join(", then ") + (rule.steps_in_all > rule.steps.length ? ", …" : "");
  const remove = make("button", { type: "button", class: "quiet", "aria-label": `Remove fault ${rule.number}: ${what}` }, "Remove");
  remove.addEventListener("click", () => act("DELETE", `/faults/${rule.number}`));
  return make("li", {}, make("div", {}, make("strong", {}, what), make("small")), remove);
}

function buildSwitches() {
  for (const choice of SWITCHES) {
    const button = make("button", { type: "button", role: "switch", id: `switch-${choice.id}`, "aria-checked": "false", "aria-labelledby": `label-${choice.id}`, "aria-describedby": `note-${choice.id}` });
    button.addEventListener("click", async () => {
      const rule = ruleOf(choice);
      if (rule) await act("DELETE", `/faults/${rule.number}`);
      else await act("POST", "/faults", { name: `console:${choice.id}`, match: at("fault-match").value.trim(), steps: choice.steps, repeat: "last" });
    });
    at("switches").append(make("li", {}, make("div", {}, make("strong", { id: `label-${choice.id}` }, choice.label), make("small", { id: `note-${choice.id}` }, choice.note)), button));
  }
}

async function buildComponents() {
  const { conditions, kinds } = await (await ask("GET", "/conditions")).json();
  at("components").replaceChildren(...Object.keys(conditions).map((component) => {
    const select = make("select", { id: `component-${component}` }, make("option", {}, HEALTHY), ...kinds.map((kind) => make("option", {}, kind)));
    select.addEventListener("change", () => {
      if (select.value === HEALTHY) act("DELETE", `/conditions/${component}`);
      else act("PUT", `/conditions/${component}`, { kind: select.value });
    });
    return make("li", {}, make("label", { for: select.id }, component), select);
  }));
}

async function drawComponents(conditions) {
  if (!at("components").children.length) {
    try { await buildComponents(); } catch (error) { complain(error.message); return; }
  }
  for (const [component, condition] of Object.entries(conditions)) {
    const select = at(`component-${component}`);
    if (!select) continue;
    select.value = condition?.kind ?? HEALTHY;
    select.parentElement.classList.toggle("unwell", Boolean(condition));
  }
}

function showRate(percent) {
  at("chaos-rate").value = percent;
  at("chaos-shown").textContent = `${percent} %`;
}

// --- Journal and endpoints ------------------------------------------------------------------------

const requests = new Map();
const seen = new Set(); // numbers whose rows were drawn: others light up
let paused = false;
let known = 0; // the newest request when this page first heard of the server

function takeRequest(request) {
  requests.set(request.number, request);
  if (requests.size > KEPT) requests.delete(Math.min(...requests.keys()));
  drawSoon();
}

// A flood of events is drawn once a turn, and also where a hidden page gets no frames.
let isDue = false;

function drawSoon() {
  if (isDue) return;
  isDue = true;
  setTimeout(() => { isDue = false; drawJournal(); });
}

function tone(request) {
  if (!request.is_done) return "note";
  if (request.status === null) return "odd";
  if (request.status >= 500) return "bad";
  return request.status >= 400 ? "warn" : "good";
}

function drawJournal() {
  drawEndpoints();
  if (paused) return;
  const wanted = at("journal-filter").value.trim().toLowerCase();
  const newest = [...requests.values()].sort((one, other) => other.number - one.number);
  const shown = wanted ? newest.filter((request) => `${request.method} ${request.path} ${request.outcome} ${request.request_id}`.toLowerCase().includes(wanted)) : newest;
  at("requests").replaceChildren(...shown.map(journalRow));
  at("requests-empty").hidden = shown.length > 0;
  at("requests-empty").textContent = wanted && requests.size ? "No request matches the filter." : "No requests yet. Point a client at this server and watch.";
}

function journalRow(request) {
  const outcome = make("td", {}, make("span", { class: "pill", "data-tone": tone(request) }, request.is_done ? (request.status ?? "no reply") : "…"));
  if (request.code) outcome.append(make("span", { class: "code" }, request.code));
  const time = new Date(request.at.replace(/(\.\d{3})\d*/, "$1"));
  const clock = time.toLocaleTimeString("en-GB") + "." + String(time.getMilliseconds()).padStart(3, "0");
  const row = make("tr", { title: `${request.request_id}` },
    make("td", { class: "number" }, request.number), make("td", {}, clock), make("td", {}, make("span", { class: "method" }, request.method)),
    make("td", {}, make("span", { class: "path" }, request.path + (request.query ? `?${request.query}` : ""))), outcome,
    make("td", {}, request.fault ? make("span", { class: "fault" }, request.fault === `error ${request.code}` ? "scripted" : request.fault) : ""));
  if (!seen.has(request.number)) {
    seen.add(request.number);
    if (request.number > known) row.classList.add("fresh");
  }
  return row;
}

function endpointOf(request) {
  if (request.namespace === null) return `${request.method} ${request.path.length > 120 ? request.path.slice(0, 119) + "…" : request.path}`;
  const tail = request.path.endsWith("/history") ? "/history" : /\/rollback\/[^/]*$/.test(request.path) ? "/rollback/{version}" : "";
  return `${request.method} /api/v1/configs/{namespace}${request.key === null ? "" : "/{key}" + tail}`;
}

function drawEndpoints() {
  const groups = new Map();
  for (const request of [...requests.values()].sort((one, other) => one.number - other.number)) {
    const name = endpointOf(request);
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push(request);
  }
  const busiest = [...groups].sort(([, one], [, other]) => other.length - one.length).slice(0, 12);
  at("endpoints-empty").hidden = busiest.length > 0;
  at("endpoints").replaceChildren(...busiest.map(([name, calls]) => {
    const done = calls.filter((call) => call.is_done);
    const up = done.filter((call) => ["good", "warn"].includes(tone(call))).length;
    const beats = make("div", { class: "beats", "aria-hidden": "true" });
    const latest = done.slice(-BEATS);
    for (let blank = latest.length; blank < BEATS; blank += 1) beats.append(make("i"));
    for (const call of latest) beats.append(make("i", { "data-tone": tone(call), title: `#${call.number} ${call.outcome}` }));
    const percent = done.length ? Math.floor((up / done.length) * 100) : 100;
    return make("li", {}, make("span", { class: "name", title: name }, name), beats,
      make("span", { class: "share" }, make("b", {}, `${percent} %`), ` up of ${done.length}`));
  }));
}

// --- Entries --------------------------------------------------------------------------------------

let entries = [];
let entriesInAll = 0;
let isLoading = false;
let isStale = false;

async function loadEntries() {
  if (isLoading) { isStale = true; return; }
  isLoading = true;
  try {
    const told = await (await ask("GET", "/entries?limit=1000")).json();
    entries = told.entries;
    entriesInAll = told.in_all;
    drawEntries();
  } catch (error) {
    complain(error.message);
  } finally {
    isLoading = false;
    if (isStale) { isStale = false; loadEntries(); }
  }
}

function drawEntries() {
  const wanted = at("entries-filter").value.trim().toLowerCase();
  const shown = entries.filter((entry) => `${entry.namespace}/${entry.key} ${entry.environment}`.toLowerCase().includes(wanted));
  tile("entries-count", entriesInAll, false);
  at("entries-note").textContent = entriesInAll > entries.length ? `the first ${entries.length} of ${entriesInAll}` : "what is stored";
  at("entries-empty").hidden = shown.length > 0;
  at("entries-empty").textContent = entries.length ? "No entry matches the filter." : "The store is empty.";
  at("entries").replaceChildren(...shown.map(entryRow));
}

function entryRow(entry) {
  const value = entry.is_broken ? make("span", { class: "pill", "data-tone": "bad" }, "broken record")
    : entry.secret ? make("span", { class: "pill", "data-tone": "note" }, "secret")
    : entry.is_shortened ? make("span", { class: "pill" }, `${entry.bytes.toLocaleString("en")} bytes`)
    : make("span", { class: "value", title: JSON.stringify(entry.value) }, JSON.stringify(entry.value));
  return make("tr", {}, make("td", { class: "mono" }, entry.namespace), make("td", { class: "mono" }, entry.key), make("td", {}, entry.environment),
    make("td", {}, value), make("td", { class: "number" }, entry.version ?? "–"));
}

// --- Controls -------------------------------------------------------------------------------------

at("origin").textContent = location.host;
buildSwitches();
at("chaos-rate").addEventListener("input", () => showRate(at("chaos-rate").value));
at("chaos-rate").addEventListener("change", () => { if (state?.chaos.enabled) act("PUT", "/chaos", { rate: at("chaos-rate").value / 100 }); });
at("chaos").addEventListener("click", () => (state?.chaos.enabled ? act("DELETE", "/chaos") : act("PUT", "/chaos", { rate: at("chaos-rate").value / 100 })));
at("faults-clear").addEventListener("click", () => act("DELETE", "/faults"));
at("conditions-clear").addEventListener("click", () => act("DELETE", "/conditions"));
at("journal-clear").addEventListener("click", () => act("DELETE", "/journal"));
at("journal-filter").addEventListener("input", drawJournal);
at("entries-filter").addEventListener("input", drawEntries);
at("journal-pause").addEventListener("click", () => {
  paused = !paused;
  at("journal-pause").setAttribute("aria-pressed", String(paused));
  at("journal-pause").textContent = paused ? "Resume" : "Pause";
  drawJournal();
});
at("reset").addEventListener("click", () => at("reset-dialog").showModal());
at("reset-cancel").addEventListener("click", () => at("reset-dialog").close());
at("reset-confirm").addEventListener("click", async () => { at("reset-dialog").close(); await act("POST", "/reset"); });
at("token-use").addEventListener("click", () => at("token-dialog").close());
at("token").addEventListener("keydown", (event) => { if (event.key === "Enter") at("token-dialog").close(); });
follow();
