// Functions that every page uses: the cookie with the browser's time zone, reloads, and news for a tab in the background.
(() => {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  document.cookie = `difffit_zone=${zone}; path=/; max-age=31536000; samesite=lax`;
  document.documentElement.dataset.notifications = window.Notification?.permission ?? "denied";

  // A file that is dropped next to the upload area must not replace the page.
  for (const name of ["dragover", "drop"])
    addEventListener(name, (event) => {
      if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
    });

  let leaving = false;
  addEventListener("beforeunload", () => {
    leaving = true;
    setTimeout(() => (leaving = false), 5000); // the user may have chosen to stay
  });
  addEventListener("pageshow", () => (leaving = false));

  const shown = (action) =>
    document.addEventListener("visibilitychange", () => document.hidden || action(), { once: true });
  const icon =
    "data:image/svg+xml," +
    encodeURIComponent('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><circle cx="4" cy="4" r="4" fill="#17693f"/></svg>');

  window.difffit = {
    // Reloads the page, but not during an upload, which would end, not while the user leaves it, and not in the
    // background, where nobody sees the result.
    reload() {
      if (difffit.uploading) return;
      if (document.hidden) shown(() => difffit.reload());
      else if (!leaving) location.reload();
    },
    // Keeps the values of a form in the page's address, where they survive a reload.
    keep(values) {
      const url = new URL(location);
      for (const [name, value] of Object.entries(values))
        if (value === null || value === "") url.searchParams.delete(name);
        else url.searchParams.set(name, value);
      history.replaceState(history.state, "", url);
    },
    // Keeps the unsaved changes of a data set as long as the tab is open. An empty text removes them.
    keepDraft(id, text) {
      if (text) sessionStorage.setItem(`difffit_draft_${id}`, text);
      else sessionStorage.removeItem(`difffit_draft_${id}`);
    },
    draft(id) {
      return sessionStorage.getItem(`difffit_draft_${id}`);
    },
    // Tells a user who looks at another tab that a job has ended.
    ended(message) {
      if (!document.hidden) return;
      const link = document.querySelector("link[rel~=icon]");
      if (link.href !== icon) {
        const before = [document.title, link.href];
        shown(() => ([document.title, link.href] = before));
      }
      document.title = `● ${message}`;
      link.href = icon;
      if (window.Notification?.permission === "granted") new Notification("DiffFit", { body: message });
    },
    async allowNotifications() {
      document.documentElement.dataset.notifications = await Notification.requestPermission();
    },
    signIn(address) {
      const path = location.pathname.slice(window.path_prefix.length) + location.search;
      location.assign(`${address}?problem=ended&next=${encodeURIComponent(path)}`);
    },
  };
})();
