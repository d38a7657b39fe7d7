// Records to bytes and back, by the layout table of abi.gen.ts. Integers are in the machine's order (little-endian),
// be16/be32 in network order; a record holds plain numbers, addresses as text, 64-bit integers as bigint.
import { type Address, addressFromBytes, addressToBytes } from "../../model/address.ts";
import { layouts, type Records } from "./abi.gen.ts";

export type StructName = keyof Records;

interface Field {
  readonly name: string;
  readonly offset: number;
  readonly type: string;
  readonly count?: number;
}

const scalarSizes: Readonly<Record<string, number>> = {
  u8: 1,
  u16: 2,
  u32: 4,
  u64: 8,
  be16: 2,
  be32: 4,
  i32: 4,
  addr: 16,
};

/** Size in bytes. */
export const sizeOf = (name: StructName): number => sizeOfType(name);

/** A fresh buffer of sizeOf(name) bytes; padding is zero. Throws RangeError on a value its field cannot hold. */
export const encode = <N extends StructName>(name: N, record: Records[N]): Uint8Array => {
  const bytes = new Uint8Array(sizeOf(name));
  write(name, record, new DataView(bytes.buffer), 0);
  return bytes;
};

export const decode = <N extends StructName>(name: N, bytes: Uint8Array): Records[N] => {
  if (bytes.length < sizeOf(name)) throw new RangeError(`${name}: ${bytes.length} bytes, needs ${sizeOf(name)}`);
  return read(name, new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength), 0) as Records[N];
};

const sizeOfType = (type: string): number => {
  const size = scalarSizes[type] ?? (layouts as Readonly<Record<string, { size: number }>>)[type]?.size;
  if (size === undefined) throw new Error(`Unknown type ${type}`);
  return size;
};

const fieldsOf = (type: string): readonly Field[] =>
  (layouts as Readonly<Record<string, { fields: readonly Field[] }>>)[type]?.fields ?? [];

const write = (type: string, value: unknown, view: DataView, offset: number): void => {
  switch (type) {
    case "u8":
      return view.setUint8(offset, integer(type, value, 0xff));
    case "u16":
      return view.setUint16(offset, integer(type, value, 0xffff), true);
    case "be16":
      return view.setUint16(offset, integer(type, value, 0xffff), false);
    case "u32":
      return view.setUint32(offset, integer(type, value, 0xffffffff), true);
    case "be32":
      return view.setUint32(offset, integer(type, value, 0xffffffff), false);
    case "i32":
      return view.setInt32(offset, value as number, true);
    case "u64":
      return view.setBigUint64(offset, value as bigint, true);
    case "addr":
      return bytesAt(view, offset, 16).set(addressToBytes(value as Address));
  }
  for (const field of fieldsOf(type)) {
    const part = (value as Readonly<Record<string, unknown>>)[field.name];
    if (field.type === "string") writeString(field, part as string, view, offset + field.offset);
    else if (field.count === undefined) write(field.type, part, view, offset + field.offset);
    else writeArray(field, part as readonly unknown[], view, offset + field.offset);
  }
};

const read = (type: string, view: DataView, offset: number): unknown => {
  switch (type) {
    case "u8":
      return view.getUint8(offset);
    case "u16":
      return view.getUint16(offset, true);
    case "be16":
      return view.getUint16(offset, false);
    case "u32":
      return view.getUint32(offset, true);
    case "be32":
      return view.getUint32(offset, false);
    case "i32":
      return view.getInt32(offset, true);
    case "u64":
      return view.getBigUint64(offset, true);
    case "addr":
      return addressFromBytes(bytesAt(view, offset, 16));
  }
  const record: Record<string, unknown> = {};
  for (const field of fieldsOf(type)) {
    const at = offset + field.offset;
    if (field.type === "string") record[field.name] = readString(field, view, at);
    else if (field.count === undefined) record[field.name] = read(field.type, view, at);
    else {
      const size = sizeOfType(field.type);
      record[field.name] = Array.from({ length: field.count }, (_, i) => read(field.type, view, at + i * size));
    }
  }
  return record;
};

const integer = (type: string, value: unknown, max: number): number => {
  if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= max) return value;
  throw new RangeError(`${String(value)} does not fit ${type}`);
};

const bytesAt = (view: DataView, offset: number, length: number): Uint8Array =>
  new Uint8Array(view.buffer, view.byteOffset + offset, length);

const utf8 = { encode: new TextEncoder(), decode: new TextDecoder() };

/** A char array is NUL-terminated, so one byte fewer than its size fits. */
const writeString = (field: Field, text: string, view: DataView, offset: number): void => {
  const bytes = utf8.encode.encode(text);
  const room = (field.count ?? 1) - 1;
  if (bytes.length > room) throw new RangeError(`${field.name} ${text}: ${bytes.length} bytes, room for ${room}`);
  bytesAt(view, offset, field.count ?? 1).set(bytes);
};

const readString = (field: Field, view: DataView, offset: number): string => {
  const bytes = bytesAt(view, offset, field.count ?? 1);
  const end = bytes.indexOf(0);
  return utf8.decode.decode(bytes.subarray(0, end < 0 ? bytes.length : end));
};

const writeArray = (field: Field, values: readonly unknown[], view: DataView, offset: number): void => {
  if (values.length !== field.count)
    throw new RangeError(`${field.name}: ${values.length} elements, not ${field.count}`);
  for (const [i, value] of values.entries()) write(field.type, value, view, offset + i * sizeOfType(field.type));
};
