// The API key: kept as long as the tab, and shared with the other open tabs of this origin only.
//
// A key never leaves the memory of the browser's tabs: no cookie, no local storage. A tab gives its
// key away only after the node has accepted the key.

const KEY = "mlx-worker-key";
const channel = new BroadcastChannel(KEY);
const listeners = new Set();

let accepted = false;

function store(value) {
  accepted = false;
  if (value) sessionStorage.setItem(KEY, value);
  else sessionStorage.removeItem(KEY);
  for (const listener of listeners) listener();
}

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: store,

  forget() {
    store("");
    channel.postMessage({ key: "" });
  },

  // Called when the node has answered a request with this key; other tabs learn a new key then.
  accept() {
    if (accepted || !key.get()) return;
    accepted = true;
    channel.postMessage({ key: key.get() });
  },

  // Resolves at the next change of the key, here or in another tab.
  changed() {
    return new Promise((resolve) => {
      const listener = () => {
        listeners.delete(listener);
        resolve();
      };
      listeners.add(listener);
    });
  },
};

channel.onmessage = ({ data }) => {
  if (data.wanted) {
    if (accepted) channel.postMessage({ key: key.get() });
  } else if (data.key !== key.get()) {
    store(data.key);
  }
};

if (!key.get()) channel.postMessage({ wanted: true });
