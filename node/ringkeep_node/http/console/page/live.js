// The stream of news: opened while the page is seen, resumed where it broke off, and honest about silence.

const SILENCE_MS = 13000;
const RETRY_MS = 2000;

export class Live {
  #source = null;
  #last = "";
  #heard = 0;
  #tried = 0;
  #timer = 0;

  /** told(data, isFull) for each event with content; state(name, since) when the line changes. */
  constructor(told, state) {
    this.told = told;
    this.state = state;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.#close() : this.#open()));
    window.addEventListener("pagehide", () => this.#close());
    window.addEventListener("pageshow", (event) => event.persisted && this.#open());
    setInterval(() => this.#look(), 1000);
    if (!document.hidden) this.#open();
  }

  #open() {
    this.#close();
    this.#tried = Date.now();
    const source = new EventSource(`/v1/console/events${this.#last ? `?after=${encodeURIComponent(this.#last)}` : ""}`);
    this.#source = source;
    for (const name of ["full", "news"]) {
      source.addEventListener(name, (event) => {
        this.#last = event.lastEventId;
        this.#hear();
        this.told(JSON.parse(event.data), name === "full");
      });
    }
    source.addEventListener("beat", () => this.#hear());
    source.addEventListener("bye", () => this.state("stopping", this.#heard));
    source.addEventListener("error", () => {
      this.state("broken", this.#heard);
      // A refusal ends an EventSource for good, and says not why; so does a node that is gone for longer.
      if (source.readyState === EventSource.CLOSED) this.#again();
    });
  }

  #close() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
  }

  #again() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => document.hidden || this.#open(), RETRY_MS);
  }

  #hear() {
    this.#heard = Date.now();
    this.state("live", this.#heard);
  }

  #look() {
    const now = Date.now();
    if (!this.#source || !this.#heard || now < this.#heard + SILENCE_MS) return;
    this.state("silent", this.#heard);
    if (now > this.#tried + SILENCE_MS) this.#open();
  }
}
