// A real browser for tests: headless Chromium, spoken to in the DevTools protocol over two pipes. One page at a time:
// open a file, look at it in a viewport and colour scheme, ask its script, take pictures. It has no network.
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable, Writable } from "node:stream";
import { pathToFileURL } from "node:url";

const BROWSER = "/usr/bin/chromium-headless-shell";

export interface Viewport {
  readonly width: number;
  readonly height: number;
  readonly scheme: "light" | "dark";
}

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params?: Readonly<Record<string, unknown>>;
  readonly result?: Readonly<Record<string, unknown>>;
  readonly error?: { readonly message: string };
}

type Json = Readonly<Record<string, unknown>>;

/** What a call may take, and a page to load. A browser that hangs fails the test instead of holding it. */
const PATIENCE_MS = 30_000;

const PROFILE = "beeline-browser-";

/** Of tests that were killed: a profile's name has its owner's pid. The browser itself ends with its pipe. */
const removeLeftProfiles = (): void => {
  for (const name of readdirSync(tmpdir())) {
    const pid = name.startsWith(PROFILE) ? name.slice(PROFILE.length).split("-")[0] : undefined;
    if (pid !== undefined && !existsSync(`/proc/${pid}`))
      rmSync(join(tmpdir(), name), { recursive: true, force: true });
  }
};

export class Browser {
  readonly #process: ChildProcess;
  readonly #profile: string;
  readonly #to: Writable;
  readonly #waiting = new Map<number, (message: Message) => void>();
  readonly #events: Message[] = [];
  #session: string | undefined;
  #last = 0;
  #rest = "";
  #stderr = "";

  private constructor(child: ChildProcess, profile: string) {
    this.#process = child;
    this.#profile = profile;
    this.#to = child.stdio[3] as Writable;
    (child.stdio[4] as Readable).setEncoding("utf8").on("data", (text: string) => this.#read(text));
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#stderr = `${this.#stderr}${text}`.slice(-4_000);
    });
    child.on("exit", () => {
      for (const answer of this.#waiting.values()) answer({ error: { message: `it ended: ${this.#stderr}` } });
    });
  }

  static async start(): Promise<Browser> {
    removeLeftProfiles();
    const profile = mkdtempSync(join(tmpdir(), `${PROFILE}${process.pid}-`));
    // Root needs --no-sandbox; every name resolves to nothing, so that a page that loads something shows it.
    const flags = ["--no-sandbox", "--remote-debugging-pipe", `--user-data-dir=${profile}`, "--hide-scrollbars"];
    const offline = ["--host-resolver-rules=MAP * ~NOTFOUND", "--disable-gpu", "--disable-dev-shm-usage"];
    const child = spawn(BROWSER, [...flags, ...offline, "about:blank"], {
      stdio: ["ignore", "ignore", "pipe", "pipe", "pipe"],
      // A group of its own: Debian's command is a shell script around a family of processes.
      detached: true,
    });
    const browser = new Browser(child, profile);
    const failed = new Promise<never>((_resolve, reject) => child.once("error", reject));
    const { targetInfos } = await Promise.race([browser.#call("Target.getTargets"), failed]);
    const page = (targetInfos as readonly { readonly type: string; readonly targetId: string }[]).find(
      ({ type }) => type === "page",
    );
    const { sessionId } = await browser.#call("Target.attachToTarget", { targetId: page?.targetId, flatten: true });
    browser.#session = sessionId as string;
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await browser.#call(`${domain}.enable`);
    return browser;
  }

  /** Loads a file; what it said on the console, threw or asked the network for since is in complaints(). */
  async open(file: string, viewport: Viewport): Promise<void> {
    await this.resize(viewport);
    this.#events.length = 0;
    await this.#call("Page.navigate", { url: pathToFileURL(file).href });
    const deadline = Date.now() + PATIENCE_MS;
    while (!this.#events.some(({ method }) => method === "Page.loadEventFired")) {
      if (Date.now() > deadline) throw new Error(`${file} does not load: ${this.#stderr}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  async resize({ width, height, scheme }: Viewport): Promise<void> {
    await this.#call("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
    await this.#call("Emulation.setEmulatedMedia", { features: [{ name: "prefers-color-scheme", value: scheme }] });
  }

  async media(media: "screen" | "print"): Promise<void> {
    await this.#call("Emulation.setEmulatedMedia", { media });
  }

  /** The value of an expression in the page; it has to be JSON. */
  async ask<T>(expression: string): Promise<T> {
    const { result, exceptionDetails } = await this.#call("Runtime.evaluate", { expression, returnByValue: true });
    if (exceptionDetails !== undefined) throw new Error(`The page threw: ${JSON.stringify(exceptionDetails)}`);
    return (result as { readonly value: T }).value;
  }

  /** Console messages and uncaught errors of the page, and every address it asked for other than itself. */
  complaints(): readonly string[] {
    const told = new Set(["Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"]);
    const asked = this.#events.filter(({ method }) => method === "Network.requestWillBeSent").slice(1);
    return [...this.#events.filter(({ method }) => told.has(method ?? "")), ...asked].map((event) =>
      JSON.stringify(event),
    );
  }

  /** The whole page, however long, as a PNG. */
  async screenshot(): Promise<Buffer> {
    const { data } = await this.#call("Page.captureScreenshot", { format: "png", captureBeyondViewport: true });
    return Buffer.from(data as string, "base64");
  }

  /** As printed on A4, as a PDF. */
  async print(): Promise<Buffer> {
    const { data } = await this.#call("Page.printToPDF", { paperWidth: 8.27, paperHeight: 11.69 });
    return Buffer.from(data as string, "base64");
  }

  async close(): Promise<void> {
    const { pid, exitCode, signalCode } = this.#process;
    if (pid !== undefined && exitCode === null && signalCode === null) {
      const ended = new Promise((resolve) => this.#process.once("close", resolve));
      process.kill(-pid, "SIGKILL");
      await ended;
    }
    // Its helpers may still be writing for a moment.
    rmSync(this.#profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  }

  #call(method: string, params: Json = {}): Promise<Json> {
    const id = ++this.#last;
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => answer({ error: { message: "no answer" } }), PATIENCE_MS);
      const answer = ({ result, error }: Message): void => {
        clearTimeout(late);
        this.#waiting.delete(id);
        if (error === undefined) resolve(result ?? {});
        else reject(new Error(`Chromium: ${method}: ${error.message}`));
      };
      this.#waiting.set(id, answer);
      const session = this.#session === undefined ? {} : { sessionId: this.#session };
      this.#to.write(`${JSON.stringify({ id, method, params, ...session })}\0`);
    });
  }

  /** Messages are JSON, each ended by NUL. */
  #read(text: string): void {
    const parts = `${this.#rest}${text}`.split("\0");
    this.#rest = parts.pop() ?? "";
    for (const part of parts) {
      const message = JSON.parse(part) as Message;
      if (message.id === undefined) this.#events.push(message);
      else this.#waiting.get(message.id)?.(message);
    }
  }
}
