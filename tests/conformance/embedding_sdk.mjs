// Prints the embeddings that an old version of `@cloudflare/ai` gets from a server.
//
//   node embedding_sdk.mjs SDK_MODULE SERVER_URL MODEL TEXT...
//
// The output is {"shape": [number of texts, dimensions], "data": [embedding, …]}.

const [module, server, model, ...text] = process.argv.slice(2);
const { Ai } = await import(module);
const binding = {
  // node requires `duplex` for bodies that are streams
  fetch: (url, init) => fetch(server + new URL(url).pathname, { duplex: "half", ...init }),
};

console.log(JSON.stringify(await new Ai(binding).run(model, { text })));
