// The passages that programs index and the questions that they ask, from passages.json. For each
// question, the file names the passage that answers it.

import { readFileSync } from "node:fs";

const data = JSON.parse(readFileSync(new URL("passages.json", import.meta.url), "utf8"));

export const passages = data.passages.slice(0, 60); // the others do not concern the questions
export const questions = data.questions.map(({ question }) => question);
export const TOO_LONG = "word ".repeat(9000); // more tokens than bge-m3 accepts in one text

/**
 * Returns the passage that is nearest to each question, and the length of the embeddings. The
 * arguments are the embeddings of the passages and of the questions, which have length 1.
 */
export function found(ofPassages, ofQuestions) {
  const [dimensions, ...others] = new Set(
    [...ofPassages, ...ofQuestions].map((vector) => vector.length),
  );
  if (others.length) throw new Error("the embeddings have several lengths");
  const nearest = (question) => {
    const products = ofPassages.map((each) => product(each, question));
    return passages[products.indexOf(Math.max(...products))];
  };
  return { found: ofQuestions.map(nearest), dimensions };
}

const product = (one, other) => one.reduce((sum, number, i) => sum + number * other[i], 0);
