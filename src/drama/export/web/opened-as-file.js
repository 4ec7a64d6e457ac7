// Browsers load neither modules nor WebAssembly from file: addresses. A plain script can say so.
if (location.protocol === "file:") {
  addEventListener("DOMContentLoaded", () => {
    document.getElementById("status").textContent =
      "Browsers do not run this page from a file. Serve its folder, for example with " +
      "“python -m http.server --bind 127.0.0.1”, and open http://127.0.0.1:8000.";
  });
}
