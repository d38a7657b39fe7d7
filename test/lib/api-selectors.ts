// Label and field selectors as the Kubernetes API reads them: `a=b,!c,d in (e,f)`.

export interface Selectable {
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
  };
}

export type Selector = (object: Selectable) => boolean;

/** Throws on what the API server would answer 400 to. */
export const labelSelector = (text: string): Selector => {
  const terms = splitTerms(text).map(labelTerm);
  return (object) => {
    const labels = object.metadata.labels ?? {};
    return terms.every((term) => term((key) => (Object.hasOwn(labels, key) ? labels[key] : undefined)));
  };
};

/** Only metadata.name and metadata.namespace, which every resource has. */
export const fieldSelector = (text: string): Selector => {
  const terms = splitTerms(text).map((term) => {
    const match = /^(metadata\.name|metadata\.namespace)(=|==|!=)(.*)$/.exec(term);
    if (match === null) throw new Error(`field label not supported: ${term}`);
    const [, field, operator, value] = match;
    return (object: Selectable): boolean => {
      const actual = field === "metadata.name" ? object.metadata.name : object.metadata.namespace;
      return (actual === value) === (operator !== "!=");
    };
  });
  return (object) => terms.every((term) => term(object));
};

type Lookup = (key: string) => string | undefined;

const labelTerm = (term: string): ((value: Lookup) => boolean) => {
  const key = "([A-Za-z0-9./_-]+)";
  const exists = new RegExp(`^(!?)\\s*${key}$`).exec(term);
  if (exists?.[2] !== undefined) {
    const [, not, name] = exists;
    return (value) => (value(name) !== undefined) === (not === "");
  }
  const equals = new RegExp(`^${key}\\s*(=|==|!=)\\s*([A-Za-z0-9._-]*)$`).exec(term);
  if (equals?.[1] !== undefined) {
    const [, name, operator, wanted] = equals;
    return (value) => (value(name) === wanted) === (operator !== "!=");
  }
  const within = new RegExp(`^${key}\\s+(in|notin)\\s+\\(([^)]*)\\)$`).exec(term);
  if (within?.[1] !== undefined) {
    const [, name, operator, list = ""] = within;
    const words = list.split(",").map((word) => word.trim());
    return (value) => words.includes(value(name) ?? "\0") === (operator === "in");
  }
  throw new Error(`unable to parse requirement: ${term}`);
};

/** At the commas outside of parentheses. */
const splitTerms = (text: string): readonly string[] =>
  text
    .split(/,(?![^(]*\))/)
    .map((term) => term.trim())
    .filter((term) => term !== "");
