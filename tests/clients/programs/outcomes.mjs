// Runs the named cases of a program, and prints one JSON line for each: its value or its error.
// A name may be followed by arguments for the case, separated by spaces.

export async function printOutcomes(cases, names) {
  for (const name of names) {
    const [key, ...values] = name.split(" ");
    console.log(JSON.stringify({ case: name, ...(await outcome(() => cases[key](...values))) }));
  }
}

async function outcome(run) {
  try {
    return { value: await run() };
  } catch (error) {
    const { constructor, message, errors } = error;
    // Each client stores the HTTP status in its error under another name, or in the response.
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
