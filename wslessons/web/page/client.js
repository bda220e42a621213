/**
 * A chat client for browsers: one WebSocket after another, and nothing lost between them.
 *
 * It speaks `chat.v1+json` (see wslessons.chat.events) and dispatches events: `state` (with `state`:
 * connecting, open, waiting or ended, and what goes with it), and `chat` (with `event`, what the
 * server said). Whatever is said is repeated, with the same id, until it is acknowledged.
 *
 * Not handled here: anything on the page.
 */

const SUBPROTOCOL = "chat.v1+json";
/** Close codes after which another attempt may succeed; the others say that we are in the wrong. */
const TRANSIENT = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014, 4401]); // 4401: the login has ended
/** HTTP answers that ask for the same request later, as 5xx do (RFC 9110, 8470 and 6585). */
const LATER = new Set([408, 425, 429]);
/** Milliseconds of a `Retry-After` that are waited at most: a mistaken date must not mean for ever. */
const LONGEST = 3600_000;
/** Handshakes that fail although the server can be reached, before we say that something is in the way. */
const BLOCKED = 3;
/** Offsets and events that are remembered at most; the server decides how many it sends. */
const KEPT = 1024;

/** Return `bytes` random bytes in hex. (`crypto.randomUUID` is missing on pages without TLS.) */
function randomHex(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, "0")).join("");
}

/** Return milliseconds to wait before attempt `n` (0, 1, ...): anything up to a doubling bound. */
export function fullJitter(n, base = 1000, cap = 20000, random = Math.random) {
  return random() * Math.min(cap, base * 2 ** Math.min(n, 30));
}

/** Return the milliseconds for which a `Retry-After` asks: seconds or a date (RFC 9110, section 10.2.3). */
export function retryAfter(value, now = Date.now()) {
  let wait = 0;
  if (/^\d+$/.test(value)) wait = Number(value) * 1000;
  else if (value?.endsWith("GMT")) wait = Date.parse(value) - now;
  return Math.min(Math.max(wait || 0, 0), LONGEST);
}

/** Thrown where another attempt would fail alike. */
class Final extends Error {}

/** Thrown where another attempt may succeed, `after` milliseconds from now. */
class Later extends Error {
  constructor(message, after = 0) {
    super(message);
    this.after = after;
  }
}

/** Ask over HTTP; return the answer, or throw `Later` if there is none. */
async function ask(url, method) {
  try {
    return await fetch(url, { method, cache: "no-store", signal: AbortSignal.timeout(10000) });
  } catch {
    throw new Later("the server can't be reached");
  }
}

/** Return what to throw for an answer that is a refusal: `Later` if it may be another one soon. */
async function refusal(answer) {
  const said = (await answer.text().catch(() => "")).trim();
  // What a proxy says is often a page, and none for this place.
  let why = said && !said.startsWith("<") ? said.slice(0, 500) : `HTTP ${answer.status}`;
  if (answer.status === 403) {
    why +=
      " If this is the server's own page, a proxy on the way has to pass on the Host (nginx:" +
      ` proxy_set_header Host $http_host), or the server is to be started with --origins ${new URL(document.baseURI).origin}.`;
  }
  if (answer.status < 500 && !LATER.has(answer.status)) return new Final(why);
  return new Later(why, retryAfter(answer.headers.get("Retry-After")));
}

export class ChatClient extends EventTarget {
  /**
   * `base` is the address of the page, under which `ticket` and `ws` are; `room` is a room's name,
   * "" for the lobby. `interval` and `timeout` (ms) are the heartbeat's: a connection that is
   * silent for `timeout` after a ping is given up. `highWater` is how many bytes may wait in the
   * browser before we stop adding to them, `most` how many messages may be unacknowledged, and
   * `maxSay` how many bytes one has on the wire (the default is our server's own limit).
   */
  constructor(
    base,
    name,
    room = "",
    { interval = 15000, timeout = 10000, highWater = 65536, most = 200, maxSay = 8192 } = {},
  ) {
    super();
    // Half of a surrogate pair, as a string cut in the middle of an emoji has, is no text in UTF-8.
    Object.assign(this, { name: name.toWellFormed(), room, interval, timeout, highWater, most, maxSay });
    this.ticketUrl = new URL("ticket", base);
    this.url = new URL(room ? `ws/rooms/${encodeURIComponent(room)}` : "ws", base);
    this.url.protocol = this.url.protocol.replace("http", "ws");
    this.session = randomHex(16);
    this.epoch = "";
    this.offset = null;
    this.pending = new Map();
    this.early = new Set();
    this.written = 0;
    this.failures = 0;
    this.blocked = 0;
    this.socket = null;
    this.stopped = false;
    this.timers = {};
  }

  /** Connect, and stay connected until `stop`. */
  start() {
    // In a path these two are a way up: the address would be that of another room.
    if ([".", ".."].includes(this.room)) this.#end("a room can't be called . or ..");
    else this.#connect();
  }

  /** Leave for good. */
  stop() {
    this.stopped = true;
    this.#abandon(1000, "left");
    this.#setState("ended", { reason: "" });
  }

  /** Try at once instead of waiting on; with a connection, ask for a sign of life. */
  wake() {
    if (this.stopped) return;
    if (this.socket) this.#ping();
    else if (this.timers.retry !== undefined) this.#connect();
  }

  /** Say something; return its id. Throws, and says why, where that can't be done. */
  say(text) {
    const id = randomHex(8); // Others see it; who could guess the next could pretend that it was said.
    const say = { type: "say", text: text.toWellFormed(), id };
    const size = new TextEncoder().encode(JSON.stringify(say)).length;
    // The server would end the connection (1009), and doubt would fall on all the others.
    if (size > this.maxSay) throw new Error(`A message has at most ${this.maxSay} bytes; this one has ${size}: split it`);
    if (this.stopped) throw new Error("The chat has ended: join again");
    if (this.pending.size >= this.most) {
      throw new Error("Too much is waiting to be sent: wait until the connection is back");
    }
    this.pending.set(id, say);
    this.#flush();
    return id;
  }

  /** Ask who is here. */
  who() {
    this.#send({ type: "who" });
  }

  #connect() {
    this.#clear("retry");
    this.#setState("connecting", {});
    this.#attempt(async () => {
      const ticket = await this.#ticket();
      if (!this.stopped) this.#open(ticket);
    });
  }

  async #ticket() {
    const answer = await ask(this.ticketUrl, "POST");
    if (!answer.ok) throw await refusal(answer);
    return (await answer.json()).ticket;
  }

  /** Show a new ticket, as our login is about to end; without one, the server ends the connection. */
  async #renew() {
    const socket = this.socket;
    try {
      const token = await this.#ticket();
      if (socket === this.socket) this.#send({ type: "renew", token });
    } catch (error) {
      this.#tellPage({ type: "system", text: `your login can't be renewed: ${error.message}` });
    }
  }

  /** Take a step of an attempt (there is one at a time); what it throws is the attempt's end. */
  async #attempt(step) {
    try {
      await step();
    } catch (error) {
      if (this.stopped) return;
      if (error instanceof Final) this.#end(error.message);
      else this.#retry(error instanceof Later ? error.message : "the server's answer is none", error.after);
    }
  }

  #open(ticket) {
    // In the list of subprotocols, where no server logs it, as it does the address.
    const socket = (this.socket = new WebSocket(this.url, [SUBPROTOCOL, `ticket.${ticket}`]));
    this.opened = false;
    this.#expect(); // By itself a browser waits for minutes.
    socket.onopen = () => {
      this.opened = true;
      const hello = { type: "hello", name: this.name, session: this.session };
      if (this.offset !== null) Object.assign(hello, { since: this.offset, epoch: this.epoch });
      this.#send(hello);
    };
    socket.onmessage = ({ data }) => {
      this.#alive();
      this.#read(data);
    };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.socket) return;
      this.#forget();
      if (this.stopped) return;
      const stale = code === 1008 && reason.startsWith("ticket");
      if (!this.opened) this.#attempt(() => this.#explain());
      else if (TRANSIENT.has(code) || (stale && this.failures < 3)) this.#retry(reason || `connection lost, code ${code}`);
      else this.#end(reason || `the server closed with code ${code}`);
    };
  }

  /** Throw why a handshake failed. A browser doesn't tell a page, so ask the same over HTTP. */
  async #explain() {
    const url = new URL(this.url);
    url.protocol = url.protocol.replace("ws", "http");
    const answer = await ask(url, "GET");
    if (answer.status !== 426) throw await refusal(answer);
    // All is well there, and only the upgrade is missing. Once that may be chance, and for those
    // who have been in it can't be the way there.
    if (++this.blocked < BLOCKED || this.epoch) throw new Later("the WebSocket did not open");
    throw new Final(
      "The server answers, but a WebSocket doesn't get there: a proxy on the way must pass on the" +
        " headers Upgrade and Connection (nginx: proxy_http_version 1.1; proxy_set_header Upgrade" +
        ' $http_upgrade; proxy_set_header Connection "upgrade")',
    );
  }

  /** Take a message; a server that is newer than we are may send what we can't read. */
  #read(data) {
    let event = null;
    try {
      event = JSON.parse(data);
    } catch {
      // Not ours.
    }
    if (typeof event?.type === "string") this.#receive(event);
  }

  #receive(event) {
    const news = this.#account(event);
    if (news) this.#tellPage(news);
    if (event.type === "expires") this.#renew();
    if (event.type === "welcome") {
      this.blocked = 0;
      this.written = 0;
      this.#clear("stable");
      this.timers.stable = setTimeout(() => (this.failures = 0), 5000);
      this.#setState("open", {});
      this.#beat();
      this.#flush();
    }
  }

  /** Keep our place in the room's log; return the event if it is news, as news. */
  #account(event) {
    // (Numbers have holes where servers share rooms; then `prev` names the one before.)
    const before = event.prev ?? event.offset - 1;
    switch (event.type) {
      case "welcome":
        if (this.epoch && event.epoch !== this.epoch) {
          // The new life knows none of the old one's ids: repeated, it might be said twice.
          this.early.clear();
          this.#giveUp("the server was restarted: it may or may not have arrived");
        }
        this.epoch = event.epoch;
        this.offset = event.offset;
        this.name = event.name; // A server with a login may decide it.
        return event;
      case "ack": {
        const ours = this.#confirm(event.id);
        if (before <= this.offset) this.#moveTo(event.offset);
        // The answer to a repeat does not come through the log and may overtake it; then the message
        // itself follows, and is still ours. (An id that is none of ours makes us remember nothing.)
        else if (ours && this.early.size < KEPT) this.early.add(event.offset);
        return ours ? event : null;
      }
      case "missed":
        this.#moveTo(event.offset);
        this.#askAgain();
        return event;
      case "message":
      case "joined":
      case "left":
        if (event.offset <= this.offset) return null;
        if (before > this.offset) {
          // Where numbers have holes, nobody can tell how many events are between two.
          this.#tellPage({ type: "missed", count: event.prev === undefined ? before - this.offset : null, offset: before });
          this.#askAgain();
        }
        if (this.early.has(event.offset)) {
          this.#moveTo(event.offset);
          return null;
        }
        this.#moveTo(event.offset);
        // What a broken connection had sent: the replay is the acknowledgement.
        if (event.sender === this.name && this.#confirm(event.id)) return { ...event, type: "ack" };
        return event;
      case "error":
        if (event.id) this.#confirm(event.id);
        return event;
      default:
        return event;
    }
  }

  #moveTo(offset) {
    this.offset = Math.max(this.offset, offset);
    for (const each of this.early) if (each <= this.offset) this.early.delete(each);
  }

  /** Repeat what was written to this connection: its answers may be among what was missed. */
  #askAgain() {
    this.written = 0;
    this.#flush();
  }

  /** Answer for the server what has been written to a connection and will not be answered by it. */
  #giveUp(why) {
    for (const [id, say] of this.pending) {
      if (!say.tried) continue;
      this.pending.delete(id);
      this.#tellPage({ type: "error", code: "unconfirmed", text: why, id });
    }
  }

  #confirm(id) {
    const index = [...this.pending.keys()].indexOf(id);
    if (index < 0) return false;
    this.pending.delete(id);
    if (index < this.written) this.written -= 1;
    if (this.state === "open") this.#flush();
    return true;
  }

  /** Write what was not written on this connection yet, but no more than the network takes. */
  #flush() {
    this.#clear("flush");
    if (this.state !== "open" || !this.socket) return;
    for (const say of [...this.pending.values()].slice(this.written)) {
      if (this.socket.bufferedAmount > this.highWater) {
        // No event tells when it has drained, so look again.
        this.timers.flush = setTimeout(() => this.#flush(), 50);
        return;
      }
      this.#send({ type: "say", text: say.text, id: say.id });
      say.tried = true;
      this.written += 1;
    }
  }

  #send(event) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(event));
  }

  // The heartbeat: a page can't send Ping frames, so it says `ping` and is told `pong`.

  #beat() {
    this.#clear("beat");
    this.timers.beat = setTimeout(() => this.#ping(), this.interval);
  }

  #ping() {
    if (this.state !== "open") return;
    this.#send({ type: "ping", id: String(Date.now()) });
    this.#beat();
    this.#expect();
  }

  #expect() {
    this.timers.silence ??= setTimeout(() => {
      this.#abandon(4000, "no sign of life");
      if (this.opened) this.#retry("no sign of life from the server");
      else this.#attempt(() => this.#explain());
    }, this.timeout);
  }

  #alive() {
    this.#clear("silence");
  }

  /** Let go of the socket without waiting for anything: its line may be dead. */
  #abandon(code, reason) {
    const socket = this.socket;
    this.#forget();
    this.#clear("retry");
    socket?.close(code, reason);
  }

  #forget() {
    if (this.socket) this.socket.onmessage = null;
    this.socket = null;
    for (const name of ["beat", "silence", "flush", "stable"]) this.#clear(name);
  }

  #retry(reason, after = 0) {
    const delay = fullJitter(this.failures++) + after;
    this.#setState("waiting", { reason, delay });
    this.timers.retry = setTimeout(() => this.#connect(), delay);
  }

  #end(reason) {
    this.stopped = true;
    this.#giveUp("the chat has ended: it may or may not have arrived");
    for (const id of this.pending.keys()) this.#tellPage({ type: "error", code: "closed", text: "the chat has ended", id });
    this.pending.clear();
    this.#setState("ended", { reason });
  }

  #clear(name) {
    clearTimeout(this.timers[name]);
    delete this.timers[name];
  }

  #tellPage(event) {
    this.dispatchEvent(Object.assign(new Event("chat"), { event }));
  }

  #setState(state, detail) {
    this.state = state;
    this.dispatchEvent(Object.assign(new Event("state"), { state }, detail));
  }
}
