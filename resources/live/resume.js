"use strict";
// A reload of the live page comes here, as its address has no token any more: go on with the one
// that it has kept. A token that was just refused is forgotten.
(() => {
  if (location.search) {
    sessionStorage.removeItem("vmctl-live-token");
    return;
  }
  const token = sessionStorage.getItem("vmctl-live-token");
  if (token) location.replace("/?token=" + encodeURIComponent(token));
})();
