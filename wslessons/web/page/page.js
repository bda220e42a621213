/** The page: what the chat client says, shown; what people type, said. Texts stay texts. */

import { ChatClient } from "./client.js";

const MOST = 500; // Messages on the page; a tab that is open for a week must not grow for a week.
const at = (id) => document.getElementById(id);
const [door, join, refusal, chat, log, people] = ["door", "join", "refusal", "chat", "log", "people"].map(at);
const [state, stateText, again, newest, text] = ["state", "state-text", "again", "newest", "text"].map(at);
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" });

let client = null;
let items = new Map(); // Our own messages that are not acknowledged yet, by id.
let last = { sender: null, time: 0 };
let asking;
let counting;
let wasIn = false;

/** Make an element; its texts are texts, whatever they look like. */
function make(tag, className, ...children) {
  const element = document.createElement(tag);
  element.className = className;
  element.append(...children);
  return element;
}

/** Give an element the colour of a name, the same on every page. */
function colour(element, name) {
  let hash = 7;
  for (const char of name) hash = (hash * 31 + char.codePointAt(0)) % 360;
  element.style.setProperty("--hue", hash);
  return element;
}

function append(element, follow = false) {
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  log.append(element);
  while (log.childElementCount > MOST) log.firstElementChild.remove();
  if (atEnd || follow) log.scrollTop = log.scrollHeight;
  else newest.hidden = false;
}

function note(words, className = "") {
  last = { sender: null, time: 0 };
  append(make("div", `event ${className}`, words));
}

function showMessage(sender, words, seconds, mine) {
  const same = !mine && last.sender === sender && seconds - last.time < 300;
  last = { sender: mine ? null : sender, time: seconds };
  const time = make("time", "", clock.format(seconds * 1000));
  time.dateTime = new Date(seconds * 1000).toISOString();
  // Whoever listens hears the name each time; whoever looks sees it once for a run of messages.
  const who = colour(make("span", same || mine ? "who hidden" : "who", sender), sender);
  const line = make("div", "message", who, " ", make("div", "text", words), make("span", "meta", time));
  line.classList.toggle("mine", mine);
  line.classList.toggle("same", same);
  append(line, mine);
  return line;
}

function settle(id, className, word) {
  const line = items.get(id);
  if (!line) return;
  items.delete(id);
  line.classList.remove("pending");
  if (className) line.classList.add(className);
  line.querySelector(".status").textContent = word;
}

function showRoster(names, count) {
  const rows = names.map((name) => colour(make("li", "", name), name));
  if (count > names.length) rows.push(make("li", "more", `and ${count - names.length} more`));
  people.replaceChildren(...rows);
  at("count").textContent = count ? `(${count})` : "";
}

/** Ask who is here, once for a burst of comings and goings: some of them are replayed history. */
function askSoon() {
  asking ??= setTimeout(() => {
    asking = undefined;
    client?.who();
  }, 150);
}

/** Keep the name for a reload, or return it; in a frame on a foreign page browsers forbid both. */
function remember(name) {
  try {
    if (name !== undefined) sessionStorage.setItem("name", name);
    return sessionStorage.getItem("name");
  } catch {
    return null;
  }
}

const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

function onChat({ event }) {
  switch (event.type) {
    case "welcome":
      door.hidden = true;
      chat.hidden = false;
      if (!wasIn) text.focus();
      wasIn = true;
      askSoon();
      break;
    case "message":
      showMessage(event.sender, event.text, event.time, false);
      break;
    case "ack":
      settle(event.id, "", " · sent");
      break;
    case "joined":
    case "left":
      note(`${event.name} ${event.type}`);
      askSoon();
      break;
    case "missed":
      note(event.count === null ? "The server was restarted: some messages may be gone" : `You missed ${plural(event.count, "message")}`, "notice");
      break;
    case "system":
      note(event.text, "notice");
      break;
    case "roster":
      showRoster(event.people, event.count);
      break;
    case "error":
      if (event.id) settle(event.id, "failed", event.code === "unconfirmed" ? ` · ${event.text}` : ` · not sent: ${event.text}`);
      else note(event.text, "notice");
      break;
  }
}

function onState({ state: name, reason, delay }) {
  clearInterval(counting);
  state.dataset.state = name;
  state.title = reason ?? "";
  again.hidden = name !== "waiting";
  if (name === "waiting") {
    const due = Date.now() + delay;
    const count = () => (stateText.textContent = `reconnecting in ${Math.max(1, Math.ceil((due - Date.now()) / 1000))} s`);
    counting = setInterval(count, 1000);
    count();
    if (!wasIn) showRefusal(`${reason}; trying again`);
  } else {
    stateText.textContent = { open: "connected", connecting: "connecting", ended: "left" }[name];
  }
  if (name === "ended" && reason) {
    if (wasIn) note(reason, "notice");
    showRefusal(reason);
    back();
  }
}

function showRefusal(words) {
  refusal.textContent = words;
  refusal.hidden = !words;
}

/** Show the door again. */
function back() {
  wasIn = false;
  client = null;
  chat.hidden = true;
  door.hidden = false;
  at("name").focus();
}

join.addEventListener("submit", (event) => {
  event.preventDefault();
  const [name, room] = [at("name").value.trim(), at("room").value.trim()];
  client?.stop();
  showRefusal("");
  log.replaceChildren();
  items = new Map();
  last = { sender: null, time: 0 };
  showRoster([], 0);
  at("title").textContent = room || "lobby";
  at("me").textContent = `as ${name}`;
  document.title = `${room || "lobby"} · wslessons chat`;
  remember(name);
  const own = (client = new ChatClient(document.baseURI, name, room));
  own.addEventListener("chat", (event) => own === client && onChat(event));
  own.addEventListener("state", (event) => own === client && onState(event));
  own.start();
});

at("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const words = text.value.trim().toWellFormed();
  if (!words || !client) return;
  let id;
  try {
    id = client.say(words);
  } catch (error) {
    note(error.message, "notice");
    return;
  }
  text.value = "";
  const line = showMessage(client.name, words, Date.now() / 1000, true);
  line.querySelector(".meta").append(make("span", "status", " · sending"));
  line.classList.add("pending");
  items.set(id, line);
});

at("leave").addEventListener("click", () => {
  client?.stop();
  showRefusal("");
  back();
});
again.addEventListener("click", () => client?.wake());
newest.addEventListener("click", () => {
  log.scrollTop = log.scrollHeight;
  text.focus();
});
log.addEventListener("scroll", () => {
  if (log.scrollHeight - log.scrollTop - log.clientHeight < 60) newest.hidden = true;
});
addEventListener("online", () => client?.wake());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && client?.wake());
addEventListener("pagehide", () => client?.stop());
addEventListener("pageshow", ({ persisted }) => persisted && back());

const wanted = new URLSearchParams(location.search);
at("name").value = wanted.get("name") ?? remember() ?? "";
at("room").value = wanted.get("room") ?? "";
// On a narrow screen the list of people would take the place of what they say.
if (matchMedia("(max-width: 720px)").matches) at("people-box").open = false;
