// Drop area for a zip, or for a folder with one folder of images per class, with buttons to choose either.
//
// A folder is packed into a zip here, without compression, so that the upload can be sent in parts. A part is sent again
// until it arrives: while the connection is lost, while the server restarts, and while the user is signed out. Problems
// are shown here, since the page may have lost its connection to the server together with the upload.
const SILENCE = 60_000; // milliseconds without progress after which a part is sent again
const PATIENCE = 600_000; // milliseconds for the answer to a request without a part
const LONGEST_PAUSE = 10; // seconds
const INTERRUPTED = new Set([0, 401, 408, 502, 503, 504]); // statuses of a lost connection and of a lost session

const CRC = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

async function crc32(file, onBytes) {
  const reader = file.stream().getReader();
  for (let crc = ~0; ; ) {
    const { done, value } = await reader.read();
    if (done) return ~crc >>> 0;
    for (let index = 0; index < value.length; index++) crc = (crc >>> 8) ^ CRC[(crc ^ value[index]) & 255];
    onBytes(value.length);
  }
}

// Returns a record of a zip: numbers of 4 bytes (bigint) or 2 bytes (number), then bytes.
function record(numbers, ...rest) {
  const size = (number) => (typeof number === "bigint" ? 4 : 2);
  const view = new DataView(new ArrayBuffer(numbers.reduce((total, number) => total + size(number), 0)));
  let at = 0;
  for (const number of numbers) {
    if (size(number) === 4) view.setUint32(at, Number(number), true);
    else view.setUint16(at, number, true);
    at += size(number);
  }
  return new Blob([view, ...rest]);
}

// Returns a zip of [path, file] pairs as a Blob, which has the files by reference.
async function pack(files, onBytes) {
  const content = [];
  const index = [];
  let offset = 0;
  for (const [path, file] of files) {
    const name = new TextEncoder().encode(path);
    const size = BigInt(file.size);
    // Version, flag for UTF-8, stored, 0 h on 1 January 1980, CRC, sizes, no extra field.
    const common = [20, 0x800, 0, 0, 0x21, BigInt(await crc32(file, onBytes)), size, size, name.length, 0];
    const header = record([0x04034b50n, ...common], name);
    content.push(header, file);
    index.push(record([0x02014b50n, 20, ...common, 0, 0, 0, 0n, BigInt(offset)], name));
    offset += header.size + file.size;
  }
  const bytes = index.reduce((total, entry) => total + entry.size, 0);
  const count = files.length;
  return new Blob([...content, ...index, record([0x06054b50n, 0, 0, count, count, BigInt(bytes), BigInt(offset), 0])]);
}

class Cancelled extends Error {}

export default {
  template: `
    <div class="drop" :class="{ over }" @dragover.prevent="over = true" @dragleave="over = false" @drop.prevent="drop">
      <p class="empty-title">{{ texts.drop }}</p>
      <p class="muted">{{ texts.classes }}</p>
      <div class="row">
        <button type="button" class="button" :disabled="busy" @click="$refs.folder.click()">{{ texts.chooseFolder }}</button>
        <button type="button" class="button" :disabled="busy" @click="$refs.zip.click()">{{ texts.chooseZip }}</button>
      </div>
      <input ref="folder" type="file" webkitdirectory multiple hidden :aria-label="texts.folder" @change="chosen" />
      <input ref="zip" type="file" accept=".zip,application/zip" hidden :aria-label="texts.zip" @change="chosen" />
      <template v-if="busy">
        <progress class="bar" max="1" :value="fraction" :aria-label="texts.upload"></progress>
        <p class="small" role="status">{{ note }}</p>
        <a v-if="signedOut" class="button" target="_blank" :href="signIn">{{ texts.signIn }}</a>
        <p class="muted small">{{ texts.stay }}</p>
        <button type="button" class="button" @click="cancel">{{ texts.cancel }}</button>
      </template>
      <div v-if="problem" class="problem" role="alert">
        <p class="problem-title">{{ problem.title }}</p>
        <p>{{ problem.detail }}</p>
        <button v-if="problem.again" type="button" class="button" @click="send(files)">{{ texts.again }}</button>
      </div>
    </div>`,
  props: { url: String, texts: Object, maxFiles: Number, maxBytes: Number },
  data: () => ({ over: false, busy: false, fraction: 0, note: "", signedOut: false, problem: null, files: [] }),
  computed: {
    signIn: () => `${window.path_prefix}/sign-in`,
  },
  mounted() {
    addEventListener("beforeunload", this.warn);
    addEventListener("pagehide", this.abandon);
  },
  unmounted() {
    removeEventListener("beforeunload", this.warn);
    removeEventListener("pagehide", this.abandon);
  },
  methods: {
    warn(event) {
      if (this.busy) event.preventDefault();
    },
    // Deletes what was sent, also while the page is being closed.
    abandon() {
      if (this.busy && this.id) fetch(this.address(this.id), { method: "DELETE", keepalive: true }).catch(() => {});
      this.id = null;
    },
    address(path) {
      return window.path_prefix + this.url + path;
    },
    chosen(event) {
      this.send([...event.target.files].map((file) => [file.webkitRelativePath || file.name, file]));
      event.target.value = "";
    },
    async drop(event) {
      this.over = false;
      const roots = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
      const files = [];
      for (const root of roots) await this.walk(root, files);
      this.send(files);
    },
    async walk(entry, files) {
      if (entry.isFile) {
        const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
        files.push([entry.fullPath.replace(/^\//, ""), file]);
        return;
      }
      const reader = entry.createReader();
      for (;;) {
        const part = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
        if (!part.length) return;
        for (const child of part) await this.walk(child, files);
      }
    },
    async send(files) {
      if (!files.length || this.busy) return;
      Object.assign(this, { files, problem: null, fraction: 0, note: this.texts.reading, id: null, cancelled: false });
      const isZip = files.length === 1 && /\.zip$/i.test(files[0][0]);
      const bytes = files.reduce((total, [, file]) => total + file.size, 0);
      if (!isZip && !files.some(([path]) => path.includes("/"))) this.fail("wrong", false);
      else if (!isZip && (files.length > this.maxFiles || bytes > this.maxBytes)) this.fail("large", false);
      else {
        this.hold(true);
        try {
          await this.sendParts(isZip ? files[0][1] : await this.packed(bytes));
        } catch (error) {
          if (error instanceof Cancelled) this.fail("cancelled");
          else if (error instanceof DOMException) this.fail("unreadable", false);
          else if (error instanceof Error) this.fail("rejected");
          else this.problem = error;
          this.abandon();
        }
        this.hold(false);
        if (!this.problem) difffit.reload();
      }
    },
    fail(name, again = true) {
      this.problem = { title: this.texts[name], detail: this.texts[`${name}Detail`], again };
    },
    // While files are sent, nothing but the user may reload the page: NiceGUI would when it is connected to a server
    // that has restarted, and knows nothing of the page.
    hold(busy) {
      this.busy = difffit.uploading = busy;
      window.socket.io.skipReconnect = busy;
      if (!busy && !window.socket.connected) window.socket.connect();
    },
    cancel() {
      this.cancelled = true;
      this.stop?.();
    },
    async packed(bytes) {
      let read = 0;
      return await pack(this.files, (count) => {
        if (this.cancelled) throw new Cancelled();
        read += count;
        this.fraction = read / bytes;
      });
    },
    async sendParts(zip) {
      const random = [...crypto.getRandomValues(new Uint8Array(16))].join("-"); // a repeated request begins no other upload
      const begun = { size_bytes: zip.size, filename: this.files[0][0].split("/")[0].slice(0, 200) || null };
      const upload = JSON.parse((await this.request("POST", "", JSON.stringify(begun), random)).responseText);
      this.id = upload.id;
      const parts = [];
      this.note = this.texts.sending;
      for (const { number, size_bytes } of upload.parts) {
        const start = (number - 1) * upload.part_bytes;
        // Reads the part before it is sent, since a file that has gone looks like a lost connection in a request.
        const part = await zip.slice(start, start + size_bytes).arrayBuffer();
        const answer = await this.request("PUT", `${upload.id}/parts/${number}`, part, null, (loaded) => {
          this.fraction = (start + loaded) / zip.size;
          this.note = `${Math.floor(100 * this.fraction)} ${this.texts.sent}`;
        });
        parts.push({ number, etag: answer.getResponseHeader("ETag") });
      }
      this.note = this.texts.checking;
      await this.request("POST", `${upload.id}/complete`, JSON.stringify({ parts }));
      this.id = null;
    },
    // Sends a request, again and again until the server answers. Throws the problem that it answers with.
    async request(method, path, body, key, onProgress) {
      for (let pause = 1; ; pause = Math.min(2 * pause, LONGEST_PAUSE)) {
        const answer = await this.attempt(method, path, body, key, onProgress);
        if (this.cancelled) throw new Cancelled();
        this.signedOut = answer.status === 401;
        if (answer.status >= 200 && answer.status < 300) return answer;
        const isBusy = answer.status === 429 && method === "PUT";
        if (!INTERRUPTED.has(answer.status) && !isBusy) throw this.problemOf(answer);
        this.note = this.signedOut ? this.texts.signedOut : this.texts.waiting;
        await new Promise((resolve) => {
          this.stop = resolve;
          setTimeout(resolve, 1000 * pause);
          addEventListener("online", resolve, { once: true });
        });
        if (this.cancelled) throw new Cancelled();
        // The answer to a large request may be cut off, so a small one finds out whether the user is signed in.
        if (method === "PUT") await this.request("GET", this.id);
      }
    },
    // Sends a request once. Resolves to the XMLHttpRequest, which has status 0 if no answer came.
    attempt(method, path, body, key, onProgress) {
      return new Promise((resolve) => {
        const request = new XMLHttpRequest();
        let silence;
        const wait = () => {
          clearTimeout(silence);
          silence = setTimeout(() => request.abort(), onProgress ? SILENCE : PATIENCE);
        };
        request.upload.onprogress = (event) => {
          wait();
          onProgress?.(event.loaded);
        };
        request.onloadend = () => {
          clearTimeout(silence);
          resolve(request);
        };
        this.stop = () => request.abort();
        request.open(method, this.address(path));
        if (typeof body === "string") request.setRequestHeader("Content-Type", "application/json");
        else request.setRequestHeader("Content-Type", "application/octet-stream");
        if (key) request.setRequestHeader("Idempotency-Key", key);
        wait();
        request.send(body);
      });
    },
    problemOf(answer) {
      try {
        const { title, detail } = JSON.parse(answer.responseText);
        if (title && detail) return { title, detail, again: true };
      } catch {}
      return { title: this.texts.rejected, detail: this.texts.rejectedDetail, again: true };
    },
  },
};
