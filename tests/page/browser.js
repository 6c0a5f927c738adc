// A browser that looks at the page through a door that can be shut, and drops files in the pipeline's bucket.

import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import net from "node:net";
import { join } from "node:path";

import { chromium } from "playwright-core";

const { env } = process;

export const launch = () => chromium.launch({
  executablePath: env.BROWSER,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
});

/** A port of this machine that leads to the page while it is open. */
export class Door {
  static async opened() {
    const door = new Door();
    await door.open(0);
    return door;
  }

  async open(port = this.port) {
    const { hostname, port: target } = new URL(env.FRESHET_HTTP);
    this.connections = new Set();
    this.server = net.createServer((client) => {
      const server = net.connect(Number(target), hostname);
      for (const [from, to] of [[client, server], [server, client]]) {
        this.connections.add(from);
        from.pipe(to);
        from.on("error", () => to.destroy());
        from.on("close", () => { this.connections.delete(from); to.destroy(); });
      }
    });
    this.server.listen(port, "127.0.0.1");
    await once(this.server, "listening");
    this.port = this.server.address().port;
    this.url = `http://127.0.0.1:${this.port}/`;
  }

  async shut() {
    const shut = once(this.server, "close");
    this.server.close();
    for (const connection of this.connections) connection.destroy();
    await shut;
  }
}

/** Every character but the plain ones, so that S3 signs what curl sends. */
const escaped = (key) => [...new TextEncoder().encode(key)]
  .map((byte) => String.fromCharCode(byte))
  .map((it) => (/[A-Za-z0-9._~/-]/.test(it) ? it : `%${it.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`))
  .join("");

function s3(bucket, key, ...options) {
  const input = `user = "${env.AWS_ACCESS_KEY_ID}:${env.AWS_SECRET_ACCESS_KEY}"\n`;
  return execFileSync("curl", ["-sS", "--fail", "--config", "-", "--aws-sigv4", `aws:amz:${env.AWS_REGION}:s3`,
    ...options, `${env.AWS_ENDPOINT_URL_S3}/${bucket}/${escaped(key)}`], { input });
}

/** Changes the database. */
export const execute = (sql) => execFileSync("psql", ["--no-psqlrc", "--set", "ON_ERROR_STOP=1", "-qc", sql, env.DATABASE_URL]);

/** Runs lines in a shell, as a person pastes them. */
export const shell = (lines) => execFileSync("bash", ["-eu", "-c", lines], { cwd: env.SCRATCH }).toString();

/** The first column of what a query finds. */
export const query = (sql) => execFileSync("psql", ["--no-psqlrc", "--set", "ON_ERROR_STOP=1", "-qAtc", sql, env.DATABASE_URL])
  .toString().trim().split("\n");

/** Tells a program of the local stack, as to stand still or to go on. */
export function signal(program, name) {
  const [, pid] = readFileSync(join(env.SCRATCH, "data", "run", `${program}.pid`), "utf8").split(" ");
  process.kill(Number(pid), `SIG${name}`);
}

/** Drops a file in the raw bucket. */
export const dropFile = (key, path) => s3(env.FRESHET_RAW_BUCKET, key, "-T", path);

/** Drops lines as a file. */
export function drop(key, lines) {
  const path = join(env.SCRATCH, "dropped.csv");
  writeFileSync(path, `${lines.join("\n")}\n`);
  dropFile(key, path);
}

/** Deletes a file of the raw bucket. */
export const remove = (key) => s3(env.FRESHET_RAW_BUCKET, key, "-X", "DELETE");

/** An object of the processed bucket. */
export const output = (key) => s3(env.FRESHET_PROCESSED_BUCKET, key);
