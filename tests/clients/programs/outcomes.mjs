// Runs a program's cases by name and prints one JSON line for each: its value or its error.

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
    // Clients store the status under different names, or in the response.
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
