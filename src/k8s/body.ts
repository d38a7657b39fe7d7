// The body of an answer, as bytes that come one after the other.
import { TooLargeError } from "./api-error.ts";

export type Body = AsyncIterable<Buffer>;

/** The whole body. Throws a TooLargeError, and closes the connection, when it is larger. */
export const readBody = async (body: Body, max_bytes: number): Promise<Buffer> => {
  const chunks: Buffer[] = [];
  let size_bytes = 0;
  for await (const chunk of body) {
    size_bytes += chunk.length;
    if (size_bytes > max_bytes) throw new TooLargeError(`the answer is larger than ${max_bytes} bytes`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
};
