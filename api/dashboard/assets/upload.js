// Drop area for a zip, or for a folder with one folder of images per class, with buttons to choose either. All files
// are sent to the dashboard's server in one request, with a progress bar; the server passes them to the REST API.
// Problems are shown here, since the page may have lost its connection to the server together with the upload.
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
        <button type="button" class="button" @click="request.abort()">{{ texts.cancel }}</button>
      </template>
      <div v-if="problem" class="problem" role="alert">
        <p class="problem-title">{{ problem.title }}</p>
        <p>{{ problem.detail }}</p>
        <button v-if="problem.again" type="button" class="button" @click="send(files)">{{ texts.again }}</button>
      </div>
    </div>`,
  props: { url: String, texts: Object },
  data: () => ({ over: false, busy: false, fraction: 0, note: "", problem: null, files: [] }),
  mounted() {
    addEventListener("beforeunload", this.warn);
  },
  unmounted() {
    removeEventListener("beforeunload", this.warn);
  },
  methods: {
    warn(event) {
      if (this.busy) event.preventDefault();
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
    send(files) {
      if (!files.length || this.busy) return;
      const isZip = files.length === 1 && /\.zip$/i.test(files[0][0]);
      if (!isZip && !files.some(([path]) => path.includes("/"))) {
        this.problem = { title: this.texts.wrong, detail: this.texts.wrongDetail };
        return;
      }
      const form = new FormData();
      for (const [path, file] of files) form.append("files", file, path);
      const request = new XMLHttpRequest();
      request.upload.onprogress = (event) => {
        this.fraction = event.loaded / event.total;
        this.note = this.fraction < 1 ? `${Math.round(100 * this.fraction)} ${this.texts.sent}` : this.texts.checking;
      };
      request.onload = () => {
        this.busy = false;
        if (request.status === 200) {
          difffit.reload();
          return;
        }
        this.problem = { title: this.texts.rejected, detail: this.texts.rejectedDetail, again: true };
        try {
          this.problem = JSON.parse(request.responseText);
        } catch {}
      };
      request.onerror = () => {
        this.busy = false;
        this.problem = { title: this.texts.interrupted, detail: this.texts.interruptedDetail, again: true };
      };
      request.onabort = () => {
        this.busy = false;
        this.problem = { title: this.texts.cancelled, detail: this.texts.cancelledDetail, again: true };
      };
      Object.assign(this, { files, request, problem: null, busy: true, fraction: 0, note: this.texts.sending });
      request.open("POST", window.path_prefix + this.url);
      request.send(form);
    },
  },
};
