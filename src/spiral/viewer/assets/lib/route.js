// The address after the #: a path and parameters. Everything that a page shows is in it, so that a link shows it again.

/** The parts of the address now: {parts: ["game", "0", "3"], params: URLSearchParams}. */
export function here() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { parts: path.split("/").filter(Boolean).map(safeDecode), params: new URLSearchParams(query) };
}

function safeDecode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** An address within the page; parameters without a value are left out. */
export function link(parts, params = {}) {
  const query = new URLSearchParams();
  for (const [key, value] of params instanceof URLSearchParams ? params : Object.entries(params)) {
    if (value !== null && value !== undefined && value !== "") query.set(key, value);
  }
  return `#/${parts.map(encodeURIComponent).join("/")}${query.size ? `?${query}` : ""}`;
}

/** Go to an address; `quiet` changes it without a new entry in the history and without drawing the page again. */
export function go(address, { quiet = false } = {}) {
  if (quiet) history.replaceState(null, "", address);
  else location.hash = address;
}

/** The address of a turn of a game. */
export function gameLink(run, step, episode, turn = 0) {
  return link(["game", run, step, episode, turn]);
}
