"use strict";
// A console as text: lines, of which the last can still change. Everything becomes text nodes.
// Of a terminal's language it knows line breaks, tabs, backspaces, carriage returns and the erasing
// of lines; all other sequences are left out.
class Terminal {
  static MAX_LINES = 2000;
  static MAX_COLUMNS = 1000;
  static MAX_SEQUENCE = 256;

  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.textContent = "";
    this.decoder = new TextDecoder("utf-8");
    this.state = "text";
    this.sequence = "";
    this.line = [];
    this.column = 0;
    this.node = null;
    this.newLine();
  }

  newLine() {
    if (this.node) this.node.data = this.line.join("") + "\n";
    this.node = document.createTextNode("");
    this.element.append(this.node);
    this.line = [];
    this.column = 0;
    if (this.element.childNodes.length > Terminal.MAX_LINES) this.element.firstChild.remove();
  }

  write(bytes) {
    const pre = this.element;
    const atEnd = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 24;
    for (const character of this.decoder.decode(bytes, { stream: true })) this.put(character);
    this.node.data = this.line.join("");
    if (atEnd) pre.scrollTop = pre.scrollHeight;
  }

  put(character) {
    const code = character.codePointAt(0);
    if (this.state !== "text") {
      this.escape(character, code);
    } else if (code === 0x1b) {
      this.state = "escape";
    } else if (character === "\n") {
      this.newLine();
    } else if (character === "\r") {
      this.column = 0;
    } else if (character === "\b") {
      this.column = Math.max(0, this.column - 1);
    } else if (character === "\t") {
      const stop = Math.min((Math.floor(this.column / 8) + 1) * 8, Terminal.MAX_COLUMNS);
      while (this.column < stop) this.cell(" ");
    } else if (this.isShown(code)) {
      if (this.column >= Terminal.MAX_COLUMNS) this.newLine();
      this.cell(character);
    }
  }

  // No control characters, and none that turn the direction of text.
  isShown(code) {
    const control = code < 0x20 || (code >= 0x7f && code < 0xa0);
    const direction = code === 0x61c || code === 0x200e || code === 0x200f ||
      (code >= 0x202a && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
    return !control && !direction;
  }

  cell(character) {
    while (this.line.length < this.column) this.line.push(" ");
    this.line[this.column] = character;
    this.column += 1;
  }

  escape(character, code) {
    this.sequence += character;
    if (this.sequence.length > Terminal.MAX_SEQUENCE || code === 0x18 || code === 0x1a) {
      this.ground();
    } else if (this.state === "escape") {
      if (character === "[") this.state = "control";
      else if ("]PX^_".includes(character)) this.state = "string";
      else if (code < 0x20 || code > 0x2f) this.ground();
    } else if (this.state === "control") {
      if (code >= 0x40 && code <= 0x7e) this.control(character);
    } else if (code === 0x07 || this.sequence.endsWith("\x1b\\")) {
      this.ground();
    }
  }

  control(final) {
    const parameters = this.sequence.slice(0, -1);
    const count = Math.min(Number.parseInt(parameters.replace("[", ""), 10) || 0, Terminal.MAX_COLUMNS);
    if (final === "K" && count === 0) this.line.length = Math.min(this.line.length, this.column);
    if (final === "K" && count === 2) this.line.length = 0;
    if (final === "G") this.column = Math.max(0, count - 1);
    if (final === "C") this.column = Math.min(this.column + Math.max(1, count), Terminal.MAX_COLUMNS);
    if (final === "D") this.column = Math.max(0, this.column - Math.max(1, count));
    this.ground();
  }

  ground() {
    this.state = "text";
    this.sequence = "";
  }
}
