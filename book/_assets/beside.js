// Two normalizers side by side; the pair stands in the address (compare.html#bn,gn).
(() => {
  const form = document.querySelector(".nc-beside");
  const [one, other] = form.querySelectorAll("select");
  const place = document.querySelector("#nc-pair");
  const parts = Object.fromEntries([...document.querySelectorAll(".nc-norm")].map((part) =>
    [[...part.classList].find((name) => name.startsWith("nc-norm-")).slice("nc-norm-".length), part]));
  const pairs = JSON.parse(form.dataset.pairs);
  const columns = document.createElement("div");
  columns.className = "nc-columns";
  place.after(columns);
  columns.append(...Object.values(parts));

  function differences() {
    const rows = pairs[`${one.value},${other.value}`];
    if (!rows) {
      place.textContent = "The comparison has not run both of them in the same places.";
      return;
    }
    const table = document.createElement("table");
    table.className = "table";
    const names = [one, other].map((select) => select.selectedOptions[0].textContent);
    table.createTHead().innerHTML = "<tr><th scope=col>workload</th><th scope=col></th><th scope=col></th></tr>";
    table.tHead.rows[0].cells[1].textContent = `${names[0]} minus ${names[1]}`;
    const body = table.createTBody();
    for (const cells of rows) {
      const row = body.insertRow();
      for (const text of cells) row.insertCell().textContent = text;
    }
    for (const row of body.rows) row.cells[2].textContent = `${names[0]} is ${row.cells[2].textContent} ${names[1]}`;
    place.replaceChildren(table);
  }

  function show() {
    for (const part of Object.values(parts)) part.hidden = true;
    for (const [order, select] of [one, other].entries()) {
      parts[select.value].hidden = false;
      parts[select.value].style.order = order;
    }
    differences();
    history.replaceState(null, "", `#${one.value},${other.value}`);
  }

  function read() {
    const given = location.hash.slice(1).split(",").filter((name) => name in parts);
    [one.value, other.value] = [given[0] ?? "bn", given[1] ?? (given[0] === "ln" ? "bn" : "ln")];
    show();
  }

  form.hidden = false;
  form.addEventListener("change", show);
  addEventListener("hashchange", read);
  read();
})();
