// Addresses and prefixes that tests write down.
import { type Address, type Prefix, parseAddress, parsePrefix } from "../../src/model/address.ts";

export const readAddress = (text: string): Address => {
  const address = parseAddress(text);
  if (address === null) throw new Error(`Not an address: ${text}`);
  return address;
};

export const readPrefix = (text: string): Prefix => {
  const prefix = parsePrefix(text);
  if (prefix === null) throw new Error(`Not a prefix: ${text}`);
  return prefix;
};
