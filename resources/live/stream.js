"use strict";
// The server: requests with the token, and its events, for as long as the page is open.
class Connection {
  constructor(token, onEvent, onState) {
    this.token = token;
    this.onEvent = onEvent;
    this.onState = onState;
    this.last = null;
  }

  headers(more) {
    return { authorization: "Bearer " + this.token, ...more };
  }

  async post(path, body = {}) {
    const response = await fetch(path, {
      method: "POST",
      headers: this.headers({ "content-type": "application/json" }),
      body: JSON.stringify(body),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error || `status ${response.status}`);
    return answer;
  }

  // Reads events for ever; after a break it goes on behind the last one that it has.
  async listen() {
    for (let pause = 250; ; pause = Math.min(pause * 2, 5000)) {
      try {
        const headers = this.last === null ? {} : { "last-event-id": this.last };
        const response = await fetch("/api/events", { headers: this.headers(headers) });
        if (response.status === 403) {
          this.onState("refused");
          return;
        }
        if (response.ok) {
          pause = 125;
          this.onState("connected");
          await this.read(response.body.getReader());
        }
      } catch (error) {
        if (!(error instanceof TypeError)) console.error(error);
      }
      this.onState("lost");
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }

  async read(reader) {
    const decoder = new TextDecoder("utf-8");
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const more = decoder.decode(value, { stream: true });
      text += more;
      // The first event can be long, and come in many pieces.
      if (!more.includes("\n")) continue;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) this.dispatch(part);
    }
  }

  dispatch(part) {
    const fields = { id: null, event: "", data: "" };
    for (const line of part.split("\n")) {
      const at = line.indexOf(": ");
      if (at > 0) fields[line.slice(0, at)] = line.slice(at + 2);
    }
    this.onEvent(fields.event, JSON.parse(fields.data));
    this.last = fields.id;
  }
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
}
