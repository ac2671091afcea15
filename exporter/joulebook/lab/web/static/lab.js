// The copy button: the page works without it, so it shows itself only where it works.
for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
    button.textContent = "Copied";
  });
}

// A file's content goes into the text, where one sees what is sent.
for (const label of document.querySelectorAll("[data-file]")) {
  label.hidden = false;
  label.querySelector("input").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) document.getElementById(label.dataset.file).value = await file.text();
  });
}
