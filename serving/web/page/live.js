// The stack's document, again and again: server-sent events, or by asking where events do not come through.

import { ask, request, send } from "./api.js";

const PATH = "/v1/stack";
const POLL_MS = 2000;
const SILENCE_MS = 8000;
const AGAIN_MS = 30_000;

/** Calls `take` with each document and `tell` with the way it comes, until it is stopped. */
export class Live {
  constructor(take, tell) {
    this.take = take;
    this.tell = tell;
    this.stopping = null;
  }

  start() {
    if (this.stopping) return;
    this.stopping = new AbortController();
    this.run(this.stopping.signal);
  }

  stop() {
    this.stopping?.abort();
    this.stopping = null;
  }

  async run(signal) {
    while (!signal.aborted) {
      try {
        await this.listen(signal);
      } catch (error) {
        if (!signal.aborted) this.tell("polling", error);
      }
      await this.poll(signal, AGAIN_MS);
    }
  }

  /** Reads events: by fetch, since an EventSource cannot send a key. Returns or raises where they end. */
  async listen(signal) {
    const silence = new AbortController();
    const both = AbortSignal.any([signal, silence.signal]);
    const response = await send(request("GET", PATH, { headers: { Accept: "text/event-stream" } }), { signal: both });
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const timer = setTimeout(() => silence.abort(), SILENCE_MS);
      const { done, value } = await reader.read().finally(() => clearTimeout(timer));
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) this.event(event);
    }
  }

  event(text) {
    const data = text.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
    if (text.startsWith("event: error")) throw new Error(JSON.parse(data).error);
    if (!data) return;
    this.tell("live", null);
    this.take(JSON.parse(data));
  }

  async poll(signal, milliseconds) {
    const ends = performance.now() + milliseconds;
    while (!signal.aborted && performance.now() < ends) {
      try {
        this.take(await ask("GET", PATH, {}, { signal }));
        this.tell("polling", null);
      } catch (error) {
        if (!signal.aborted) this.tell("lost", error);
      }
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }
}
