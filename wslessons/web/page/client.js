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
const TRANSIENT = new Set([1001, 1005, 1006, 1011, 1012, 1013, 1014]);

/** Return `bytes` random bytes in hex. (`crypto.randomUUID` is missing on pages without TLS.) */
function randomHex(bytes) {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (b) => b.toString(16).padStart(2, "0")).join("");
}

/** Return milliseconds to wait before attempt `n` (0, 1, ...): anything up to a doubling bound. */
export function fullJitter(n, base = 1000, cap = 20000, random = Math.random) {
  return random() * Math.min(cap, base * 2 ** Math.min(n, 30));
}

/** Return what tells an event without a number from others. */
function identity(event) {
  return `${event.sender ?? event.name} ${event.id || event.time}`;
}

/** Thrown where another attempt would fail alike. */
class Final extends Error {}

export class ChatClient extends EventTarget {
  /**
   * `base` is the address of the page, under which `ticket` and `ws` are; `room` is a room's name,
   * "" for the lobby. `interval` and `timeout` (ms) are the heartbeat's: a connection that is
   * silent for `timeout` after a ping is given up. `highWater` is how many bytes may wait in the
   * browser before we stop adding to them, and `most` how many messages may be unacknowledged.
   */
  constructor(base, name, room = "", { interval = 15000, timeout = 10000, highWater = 65536, most = 200 } = {}) {
    super();
    Object.assign(this, { name, room, interval, timeout, highWater, most });
    this.ticketUrl = new URL("ticket", base);
    this.url = new URL(room ? `ws/rooms/${encodeURIComponent(room)}` : "ws", base);
    this.url.protocol = this.url.protocol.replace("http", "ws");
    this.session = randomHex(16);
    this.prefix = randomHex(8); // Others see our ids, and nobody must guess our session from them.
    this.epoch = "";
    this.offset = null;
    this.pending = new Map();
    this.early = new Set();
    this.told = new Set();
    this.written = 0;
    this.said = 0;
    this.failures = 0;
    this.socket = null;
    this.stopped = false;
    this.timers = {};
  }

  /** Connect, and stay connected until `stop`. */
  start() {
    this.#connect();
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

  /** Say something; return its id, or null when too much waits to be acknowledged. */
  say(text) {
    if (this.pending.size >= this.most) return null;
    const id = `${this.prefix}-${++this.said}`;
    this.pending.set(id, text);
    this.#flush();
    return id;
  }

  /** Ask who is here. */
  who() {
    this.#send({ type: "who" });
  }

  async #connect() {
    this.#clear("retry");
    this.#setState("connecting", {});
    const attempt = (this.attempt = Symbol("attempt"));
    let ticket;
    try {
      ticket = await this.#ticket();
    } catch (error) {
      if (attempt !== this.attempt || this.stopped) return;
      if (error instanceof Final) this.#end(error.message);
      else this.#retry("the server can't be reached");
      return;
    }
    if (attempt !== this.attempt || this.stopped) return;
    // In the list of subprotocols, where no server logs it, as it does the address.
    const socket = (this.socket = new WebSocket(this.url, [SUBPROTOCOL, `ticket.${ticket}`]));
    this.#expect(); // By itself a browser waits for minutes.
    socket.onopen = () => {
      const hello = { type: "hello", name: this.name, session: this.session };
      if (this.offset !== null) Object.assign(hello, { since: this.offset, epoch: this.epoch });
      this.#send(hello);
    };
    socket.onmessage = ({ data }) => {
      this.#alive();
      this.#receive(JSON.parse(data));
    };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.socket) return;
      this.#forget();
      if (this.stopped) return;
      const stale = code === 1008 && reason.startsWith("ticket");
      if (TRANSIENT.has(code) || (stale && this.failures < 3)) this.#retry(reason || `connection lost, code ${code}`);
      else this.#end(reason || `the server closed with code ${code}`);
    };
  }

  async #ticket() {
    const answer = await fetch(this.ticketUrl, { method: "POST", signal: AbortSignal.timeout(10000) });
    if (answer.ok) return (await answer.json()).ticket;
    if (answer.status >= 500 || answer.status === 429) throw new Error(`HTTP ${answer.status}`);
    throw new Final(`no ticket: HTTP ${answer.status} ${(await answer.text()).trim()}`);
  }

  #receive(event) {
    const own = this.#account(event);
    if (own) this.dispatchEvent(Object.assign(new Event("chat"), { event: own }));
    if (event.type === "welcome") {
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
    switch (event.type) {
      case "welcome":
        if (this.epoch && event.epoch !== this.epoch) this.early.clear();
        this.epoch = event.epoch;
        this.offset = event.offset;
        return event;
      case "ack":
        // The answer to a repeat may overtake what is still on its way: only the next number moves us.
        // (Numbers have holes where servers share rooms; then `prev` names the one before.)
        if ((event.prev ?? event.offset - 1) <= this.offset) this.offset = Math.max(this.offset, event.offset);
        else if (event.offset > this.offset) this.early.add(event.offset);
        return this.#confirm(event.id) ? event : null;
      case "missed":
        this.offset = Math.max(this.offset, event.offset);
        // None missed: what has been told without a number has got one.
        return event.count === 0 ? null : event;
      case "message":
      case "joined":
      case "left":
        // The broker was away: told without a number, it may come again, with one.
        if (event.offset === 0) return this.#tell(event) && !this.pending.has(event.id) ? event : null;
        if (event.offset <= this.offset) return null;
        this.offset = event.offset;
        if (this.told.delete(identity(event))) return null;
        if (this.early.delete(event.offset)) return null;
        // What a broken connection had sent: the replay is the acknowledgement.
        if (event.type === "message" && this.#confirm(event.id)) return { ...event, type: "ack" };
        return event;
      case "error":
        if (event.id) this.#confirm(event.id);
        return event;
      default:
        return event;
    }
  }

  /** Remember what has no number; return whether it is new. */
  #tell(event) {
    if (this.told.has(identity(event))) return false;
    this.told.add(identity(event));
    if (this.told.size > 1024) this.told.delete(this.told.values().next().value);
    return true;
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
    for (const [id, text] of [...this.pending].slice(this.written)) {
      if (this.socket.bufferedAmount > this.highWater) {
        // No event tells when it has drained, so look again.
        this.timers.flush = setTimeout(() => this.#flush(), 50);
        return;
      }
      this.#send({ type: "say", text, id });
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
      this.#retry("no sign of life from the server");
    }, this.timeout);
  }

  #alive() {
    this.#clear("silence");
  }

  /** Let go of the socket without waiting for anything: its line may be dead. */
  #abandon(code, reason) {
    const socket = this.socket;
    this.attempt = null;
    this.#forget();
    this.#clear("retry");
    socket?.close(code, reason);
  }

  #forget() {
    if (this.socket) this.socket.onmessage = null;
    this.socket = null;
    for (const name of ["beat", "silence", "flush", "stable"]) this.#clear(name);
  }

  #retry(reason) {
    const delay = fullJitter(this.failures++);
    this.#setState("waiting", { reason, delay });
    this.timers.retry = setTimeout(() => this.#connect(), delay);
  }

  #end(reason) {
    this.stopped = true;
    this.#setState("ended", { reason });
  }

  #clear(name) {
    clearTimeout(this.timers[name]);
    delete this.timers[name];
  }

  #setState(state, detail) {
    this.state = state;
    this.dispatchEvent(Object.assign(new Event("state"), { state }, detail));
  }
}
