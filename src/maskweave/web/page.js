// A photo that is pasted, or dropped anywhere, goes the way of one that is chosen: as the file it is.
() => {
  // The editor misses changes of its size while it starts, and shows small photos small.
  const fill = (editor, zoom) => {
    if (!zoom) return;
    zoom.border_padding = 8;
    const fit = () => {
      if (!zoom.image_editor_context) return;
      const { width, height } = editor.target_element.getBoundingClientRect();
      editor.resize_canvas(width, height);
      zoom.set_zoom("fit");
    };
    new ResizeObserver(fit).observe(editor.target_element);
    editor.dimensions.subscribe(() => setTimeout(fit, 100));
  };
  // The editor mixes up photo and mask if they come before it has its tools.
  const waiting = setInterval(() => {
    if (!document.querySelector("#editor .toolbar-wrap")) return;
    clearInterval(waiting);
    fill(window.editor, window.editor?.tools?.get("zoom"));
    document.getElementById("begin").click();
  }, 50);
  const photo = (files) => [...(files || [])].find((file) => file.type.startsWith("image/"));
  const open = (file) => {
    const input = document.querySelector('[data-testid="Open photo-upload-button"]');
    const transfer = new DataTransfer();
    transfer.items.add(file);
    input.files = transfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };
  const take = (event, files) => {
    const file = photo(files);
    if (!file) return;
    event.preventDefault();
    event.stopPropagation();
    open(file);
  };
  document.addEventListener("paste", (event) => take(event, event.clipboardData.files), true);
  document.addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    take(event, event.dataTransfer.files);
  }, true);
  document.addEventListener("dragover", (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  }, true);
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  }, true);
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "Enter") {
      event.preventDefault();
      document.getElementById("fill")?.click();
    }
    if (event.key === "Escape") document.getElementById("cancel")?.click();
  });
}
