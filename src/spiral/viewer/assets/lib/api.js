// The server's answers. An error of the server is one sentence for the reader.

export class ApiError extends Error {}

/** Get JSON; `params` without a value are left out. */
export async function get(path, params = {}, { signal } = {}) {
  const query = new URLSearchParams(
    Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== ""),
  );
  return ask("GET", query.size ? `${path}?${query}` : path, { signal });
}

export const post = (path, body) => ask("POST", path, { body });
export const remove = (path) => ask("DELETE", path, {});

async function ask(method, path, { body, signal }) {
  let response;
  try {
    response = await fetch(path, {
      method,
      signal,
      credentials: "same-origin",
      headers: body ? { "Content-Type": "application/json" } : {},
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The viewer does not answer. Is `spiral view` still running?");
  }
  const data = await response.json().catch(() => null);
  if (!response.ok) {
    if (response.status === 401)
      throw new ApiError("This page needs the address that `spiral view` printed, with its token.");
    throw new ApiError(data?.error ?? `The viewer answered with status ${response.status}.`);
  }
  return data;
}

/** The path of one episode. */
export function episodePath(run, step, episode) {
  return `/api/runs/${encodeURIComponent(run)}/episodes/${encodeURIComponent(step)}/${encodeURIComponent(episode)}`;
}
