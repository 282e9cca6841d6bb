// The chat of the page: sends the conversation to a model and shows the completion as it streams.

import { API, fetchJson } from "./api.js";
import { $, element } from "./dom.js";
import { duration } from "./format.js";
import { generate } from "./generation.js";
import { announce } from "./status.js";

const OPTIONS = { temperature: "temperature", seed: "seed", max_tokens: "max-tokens" };

export class Chat {
  #messages = [];
  #abort = null; // the AbortController of the running request, or null

  constructor() {
    $("chat-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    $("chat-stop").addEventListener("click", () => this.#stop());
    $("chat-new").addEventListener("click", () => this.#startAgain());
    $("message").addEventListener("keydown", sendOnEnter);
  }

  async loadModels() {
    // This form of the list has only the models that generate text.
    const body = await fetchJson(`${API}/models/search?format=openrouter&per_page=1000`);
    const chosen = $("model").value;
    const options = body.data.map(({ id }) => new Option(id, id, false, id === chosen));
    $("model").replaceChildren(...options);
  }

  async #send() {
    const text = $("message").value.trim();
    if (!text || this.#abort) return;
    this.#abort = new AbortController();
    $("message").value = "";
    setBusy(true);
    await this.#addTurns({ role: "user", content: text });
    this.#abort = null;
    setBusy(false);
  }

  async #addTurns(question) {
    addTurn("user", question.content);
    const turn = addTurn("assistant", "");
    const completion = turn.appendChild(element("span", ""));
    const messages = this.#messages; // the array of this conversation; #startAgain() creates a new array
    try {
      await this.#generate([...messages, question], turn, completion);
    } catch (error) {
      showFailure(turn, error);
      if (error.name !== "AbortError" && !completion.textContent) $("message").value ||= question.content;
    }
    if (completion.textContent) messages.push(question, { role: "assistant", content: completion.textContent });
  }

  async #generate(messages, turn, completion) {
    const started = performance.now();
    await generate($("model").value, readInput(messages), this.#abort.signal, (piece) => {
      completion.textContent += piece;
      scrollToEnd();
    });
    addNote(turn, duration(performance.now() - started));
    announce(`Answer: ${completion.textContent}`);
  }

  #stop() {
    this.#abort?.abort();
    $("message").focus();
  }

  #startAgain() {
    this.#abort?.abort();
    this.#messages = [];
    $("turns").replaceChildren();
    $("message").focus();
  }
}

function sendOnEnter(event) {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("chat-form").requestSubmit();
}

function readInput(messages) {
  const system = $("system").value.trim();
  const input = {
    messages: system ? [{ role: "system", content: system }, ...messages] : messages,
    stream: $("stream").checked,
  };
  for (const [key, id] of Object.entries(OPTIONS)) {
    if ($(id).value !== "") input[key] = Number($(id).value);
  }
  return input;
}

function showFailure(turn, error) {
  if (error.name === "AbortError") {
    addNote(turn, "stopped");
    announce("Stopped");
    return;
  }
  const reason = error instanceof TypeError ? "the connection broke off" : error.message;
  turn.classList.add("failed");
  addNote(turn, reason);
  announce(`Failed: ${reason}`);
}

function addTurn(role, text) {
  const turn = element("div", `turn ${role}`, text);
  $("turns").append(turn);
  scrollToEnd();
  return turn;
}

function addNote(turn, text) {
  turn.append(element("small", "", text));
  scrollToEnd();
}

function scrollToEnd() {
  $("turns").scrollTop = $("turns").scrollHeight;
}

function setBusy(isBusy) {
  $("turns").setAttribute("aria-busy", String(isBusy));
  $("chat-send").disabled = isBusy;
  $("chat-stop").disabled = !isBusy;
  if (document.activeElement === document.body) $("message").focus();
}
