// What stands at an address of its own, behind the # of the page's: a file, for one. The rest of the page is the overview.

import { contractView } from "./contract.js";
import { element, show, text, the } from "./dom.js";
import { entityView } from "./entity.js";
import { fileView } from "./file.js";
import { unmatchedView } from "./unmatched.js";

/** By the first part of the address: what makes the view of the other parts. */
const VIEWS = { contract: contractView, entity: entityView, file: fileView, unmatched: unmatchedView };

/** The view that is shown: its address, and what draws it anew. */
const shown = { address: "", view: null };

/** The parts of the address; none for the overview. */
function parts() {
  const address = location.hash.startsWith("#/") ? location.hash.slice(2) : "";
  return address.split("/").filter(Boolean).map((part) => {
    try { return decodeURIComponent(part); } catch { return part; }
  });
}

/** Shows what the address says. */
export function renderView() {
  const [name, ...rest] = parts();
  const make = VIEWS[name];
  show(the("overview"), !make);
  show(the("view"), Boolean(make));
  if (shown.address !== location.hash) {
    shown.address = location.hash;
    const place = element("div");
    the("view").replaceChildren(element("p", { class: "back" }, element("a", { href: "#/" }, "← Overview")), place);
    shown.view = make ? make(place, ...rest) : null;
    if (make) window.scrollTo(0, 0);
  }
  shown.view?.();
}

/** Says in a view why it has nothing to show. */
export function refuse(place, reason) {
  if (place.firstElementChild?.className !== "notice bad") place.replaceChildren(element("p", { class: "notice bad", role: "alert" }));
  text(place.firstElementChild, reason);
}
