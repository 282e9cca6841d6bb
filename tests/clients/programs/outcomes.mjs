// Runs a program's cases by name and prints a JSON line for each: what came out of it.

export async function printOutcomes(cases, names) {
  for (const name of names) {
    console.log(JSON.stringify({ case: name, ...(await outcome(cases[name])) }));
  }
}

async function outcome(run) {
  try {
    return { value: await run() };
  } catch (error) {
    const { constructor, message, errors } = error;
    // Some clients name it so, some otherwise, some keep the response.
    const status = error.status ?? error.statusCode ?? error.response?.status;
    return { error: constructor.name, status, message, errors };
  }
}

export async function all(iterable) {
  const items = [];
  for await (const item of iterable) {
    items.push(item);
  }
  return items;
}
