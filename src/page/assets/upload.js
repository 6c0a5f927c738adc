// Files that are dropped on the page, or chosen, and go into the raw bucket: only where the page may write.

import { element, list, show, tellChosen, text, the } from "./dom.js";
import { state } from "./state.js";

/** What became of the files that were dropped, the newest first. */
const dropped = [];
/** Files that are told of. */
const TOLD = 20;

/** A file after the other: each is held in memory by whoever takes it. */
async function send(files) {
  const domain = the("upload-domain").value;
  for (const file of files) {
    const told = { name: file.name, said: "…", isBad: false };
    dropped.unshift(told);
    dropped.length = Math.min(dropped.length, TOLD);
    tellChosen();
    try {
      const path = `/page/uploads?domain=${encodeURIComponent(domain)}&name=${encodeURIComponent(file.name)}`;
      const answer = await fetch(path, { method: "POST", headers: { "x-freshet-page": "1" }, body: file });
      const said = answer.ok ? `in the bucket as ${(await answer.json()).key}` : (await answer.text()).trim();
      Object.assign(told, { said, isBad: !answer.ok });
    } catch (error) {
      Object.assign(told, { said: error.message, isBad: true });
    }
    tellChosen();
  }
}

export function renderUpload({ may_write: mayWrite, prefixes }) {
  show(the("upload"), mayWrite);
  if (!mayWrite) return;
  const possible = prefixes.filter(([, prefixes]) => prefixes.length > 0);
  list(the("upload-domain"), possible, ([domain]) => domain, ([domain]) => element("option", { value: domain }),
    (option, [domain, [prefix]]) => text(option, prefix === `${domain}/` ? prefix : `${prefix} (${domain})`));
  const zone = the("upload");
  zone.ondragover = (event) => {
    event.preventDefault();
    zone.dataset.over = "";
  };
  zone.ondragleave = () => delete zone.dataset.over;
  zone.ondrop = (event) => {
    event.preventDefault();
    delete zone.dataset.over;
    send([...event.dataTransfer.files]);
  };
  const field = the("upload-files");
  field.onchange = () => {
    send([...field.files]);
    field.value = "";
  };
  list(the("uploaded"), dropped.map((it, index) => ({ ...it, key: dropped.length - index })), (it) => it.key, () => element("li"), (item, it) => {
    text(item, `${it.name}: ${it.said}`);
    item.className = it.isBad ? "bad" : "";
  });
}
