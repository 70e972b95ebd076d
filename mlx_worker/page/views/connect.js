// Snippets to copy: how a client reaches this node.

import { byId, el, setOptions, setText, toast } from "../lib/dom.js";
import { remember, saved } from "../lib/saved.js";

const KEY_VARIABLE = "MLX_WORKER_API_KEY";

const base = () => location.href.replace(/[?#].*$/, "").replace(/\/$/, "");
const message = (model) => `{"model": "${model}", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}`;

const CLIENTS = {
  "curl": (model, hasKey) => `curl ${base()}/v1/chat/completions \\
${hasKey ? `  -H "Authorization: Bearer $${KEY_VARIABLE}" \\\n` : ""}  -H "Content-Type: application/json" \\
  -d '${message(model)}'`,
  "OpenAI, Python": (model, hasKey) => `${hasKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${base()}/v1", api_key=${hasKey ? `os.environ["${KEY_VARIABLE}"]` : '"none"'})
answer = client.chat.completions.create(
    model="${model}", messages=[{"role": "user", "content": "Hello"}]
)
print(answer.choices[0].message.content)`,
  "Anthropic, Python": (model, hasKey) => `${hasKey ? "import os\n\n" : ""}from anthropic import Anthropic

client = Anthropic(base_url="${base()}", api_key=${hasKey ? `os.environ["${KEY_VARIABLE}"]` : '"none"'})
answer = client.messages.create(
    model="${model}", max_tokens=100, messages=[{"role": "user", "content": "Hello"}]
)
print(answer.content[0].text)`,
  "OpenAI, environment": (model, hasKey) => `export OPENAI_BASE_URL="${base()}/v1"
export OPENAI_API_KEY="${hasKey ? `$${KEY_VARIABLE}` : "none"}"
export OPENAI_MODEL="${model}"`,
  "Anthropic, environment": (model, hasKey) => `export ANTHROPIC_BASE_URL="${base()}"
export ANTHROPIC_AUTH_TOKEN="${hasKey ? `$${KEY_VARIABLE}` : "none"}"
export ANTHROPIC_MODEL="${model}"`,
};

export class Connect {
  #hasKey = false;

  constructor() {
    for (const id of ["connect-client", "connect-model"]) {
      remember(byId(id));
      byId(id).addEventListener("change", () => this.#write());
    }
    const names = Object.keys(CLIENTS).map((name) => [name, name]);
    setOptions(byId("connect-client"), names, saved("connect-client", "curl"));
    byId("connect-copy").addEventListener("click", () => copy(byId("connect-text")));
  }

  needsKey() {
    this.#hasKey = true;
  }

  offer(report) {
    const models = Object.keys(report.models);
    const first = models.find((id) => report.models[id].isDefault);
    setOptions(byId("connect-model"), models.map((id) => [id, id]), saved("connect-model", first));
    this.#write();
  }

  #write() {
    setText(byId("connect-text"), CLIENTS[byId("connect-client").value](byId("connect-model").value, this.#hasKey));
  }
}

// Copies an element's text. Browsers offer a page that came over plain HTTP the older way only.
async function copy(element) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(element.textContent);
    else copyByHand(element.textContent);
    toast("The snippet is in the clipboard");
  } catch {
    getSelection().selectAllChildren(element);
    toast("The browser does not allow copying: the snippet is selected", "bad");
  }
}

function copyByHand(text) {
  const field = el("textarea", {}, text);
  const focused = document.activeElement;
  document.body.append(field);
  field.select();
  const isCopied = document.execCommand("copy");
  field.remove();
  focused.focus();
  if (!isCopied) throw new Error("not copied");
}
