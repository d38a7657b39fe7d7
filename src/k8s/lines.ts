// Lines out of a byte stream. A line may be cut anywhere, also inside a UTF-8 character, and has a limit.
import { TooLargeError } from "./api-error.ts";

const NEWLINE = 0x0a;

/**
 * Returns a function that takes the next bytes and gives the lines they complete, decoded, without empty ones. Throws a
 * TooLargeError when a line passes `max_bytes`. Bytes after the last newline wait for their rest.
 */
export const createLineSplitter = (max_bytes: number): ((chunk: Buffer) => readonly string[]) => {
  let pieces: Buffer[] = [];
  let size_bytes = 0;
  const hold = (piece: Buffer): void => {
    size_bytes += piece.length;
    if (size_bytes > max_bytes) throw new TooLargeError(`a line is longer than ${max_bytes} bytes`);
    pieces.push(piece);
  };
  return (chunk) => {
    const lines: string[] = [];
    let start = 0;
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      hold(chunk.subarray(start, end));
      const line = Buffer.concat(pieces).toString("utf8").trim();
      if (line !== "") lines.push(line);
      pieces = [];
      size_bytes = 0;
      start = end + 1;
    }
    if (start < chunk.length) hold(chunk.subarray(start));
    return lines;
  };
};
