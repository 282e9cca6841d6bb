// Writes a request of the journal as a curl command or as a rule of a script, and copies texts.

const TOKEN = "${CLOUDFLARE_API_TOKEN:-local}"; // a variable of the shell, with a default
const REDACTED = "[redacted]";
// Headers that curl sends itself, or that belong to the client's connection or to a browser.
const OMITTED = /^(host|connection|content-length|content-encoding|transfer-encoding|expect|user-agent|accept|accept-encoding|accept-language|cookie|origin|referer|sec-.*)$/;

// Returns the command that sends the request again, for a POSIX shell. It contains no credentials:
// the shell inserts the token.
export function curlCommand(data) {
  const parts = [`curl -sS${data.stream ? "N" : ""}g ${quoted(urlOf(data))}`, ...headersOf(data).map((header) => `-H ${header}`)];
  const { body } = data.request;
  if (body !== null) parts.push(`--data-raw ${quoted(typeof body === "string" ? body : JSON.stringify(body))}`);
  return parts.join(" \\\n  ");
}

// Returns the rule as YAML. The values are written as JSON, which is valid YAML.
export function ruleText(rule) {
  const lines = Object.entries(rule).map(([name, value]) => `${name}: ${toYaml(value)}`);
  return `- ${lines.join("\n  ")}\n`;
}

// Copies the text to the clipboard. Returns whether it was copied.
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelected(text); // browsers have no `navigator.clipboard` on pages from other machines
  }
}

function copySelected(text) {
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  return isCopied;
}

function urlOf({ path, query }) {
  const escaped = encodeURI(path).replaceAll("?", "%3F").replaceAll("#", "%23");
  return `${location.origin}${escaped}${query ? `?${query}` : ""}`;
}

function headersOf({ request, account, path }) {
  const entries = Object.entries(request.headers).filter(([name]) => !OMITTED.test(name));
  const isNamed = !account || path.includes(account) || "x-emulator-account" in request.headers;
  if (!isNamed) entries.push(["x-emulator-account", account]);
  return entries.map(headerText).filter(Boolean);
}

// Returns a header as an argument of the shell. Returns null for a credential that is not a token.
function headerText([name, value]) {
  if (!value.includes(REDACTED)) return quoted(`${name}: ${value}`);
  return name.endsWith("authorization") ? `${quoted(`${name}: Bearer `)}"${TOKEN}"` : null;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

// Escapes the characters that YAML does not allow in texts.
function toYaml(value) {
  const escape = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(value).replace(/[\u007f-\u009f\u2028\u2029\ufeff\ufffe\uffff]/g, escape);
}
